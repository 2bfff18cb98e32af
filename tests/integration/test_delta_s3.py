"""Models kept as differences in a store on S3: the same digest and bytes, and damage seen by its checksum."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tasks.artefacts import ArtefactAltered, fetch, problems
from tasks.artefacts.delta import pack, unpack
from tasks.artefacts.s3 import S3Store
from tests.unit.artefacts.test_delta import model, weights

pytestmark = pytest.mark.slow


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto.start()
    host, port = moto.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield S3Store(bucket, "prefix", request_attempts=1, wait_s=0)
    moto.stop()


def test_a_difference_on_s3_is_read_and_taken_back(store: S3Store, tmp_path: Path) -> None:
    base = model(store, tmp_path / "base", weights(0))
    tuned = model(store, tmp_path / "tuned", weights(1, 1e-4))
    original = (tmp_path / "tuned" / "model.safetensors").read_bytes()
    pack(store, tuned, base, cache=tmp_path / "cache")
    assert store.stat(f"artefacts/{tuned}/files/model.safetensors") is None
    assert problems(store, tuned) == []
    assert (fetch(store, tuned, tmp_path / "other") / "model.safetensors").read_bytes() == original
    store.write(f"deltas/{tuned}/files/model.safetensors", b"altered")
    assert problems(store, tuned) == ["object altered: the difference of model.safetensors"]
    with pytest.raises(ArtefactAltered):
        fetch(store, tuned, tmp_path / "third")
    # The machine that made it still has a verified copy, from which it is mended.
    assert unpack(store, tuned, cache=tmp_path / "cache")
    assert problems(store, tuned) == []
    assert store.stat(f"deltas/{tuned}/delta.json") is None
