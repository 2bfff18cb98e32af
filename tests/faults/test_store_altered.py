"""Altered, truncated and missing objects are refused by name and digest, on both backends."""

import hashlib
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tasks.artefacts import (
    ArtefactAltered,
    Manifest,
    ObjectMissing,
    Store,
    commit,
    fetch,
    open_store,
    problems,
)
from tasks.recipe.failures import Failure

WEIGHTS = bytes(range(256)) * 64
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture(params=["local", "s3"])
def store(
    request: pytest.FixtureRequest, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return open_store(f"s3://{bucket}/prefix")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def manifest(store: Store, directory: Path) -> Manifest:
    return commit(store, directory, kind="model", parents=[], producer="test", meta={})


def overwrite(store: Store, key: str, data: bytes) -> None:
    """Replace the bytes and keep everything else, our metadata in S3 included."""
    path = store.local_path(key)
    if path is not None:
        path.chmod(0o644)
        path.write_bytes(data)
        return
    bucket, _, name = store.locate(key).removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    metadata = client.head_object(Bucket=bucket, Key=name)["Metadata"]
    client.put_object(Bucket=bucket, Key=name, Body=data, Metadata=metadata)


@pytest.mark.parametrize("at", [0, len(WEIGHTS) // 2, len(WEIGHTS) - 1])
def test_one_altered_byte(store: Store, manifest: Manifest, directory: Path, tmp_path: Path, at: int) -> None:
    altered = bytearray(WEIGHTS)
    altered[at] ^= 1
    key = f"artefacts/{manifest.digest}/files/model.safetensors"
    overwrite(store, key, bytes(altered))
    with pytest.raises(ArtefactAltered, match=r"model\.safetensors") as caught:
        fetch(store, manifest.digest, tmp_path / "cache")
    assert caught.value.failure is Failure.INFRASTRUCTURE
    assert hashlib.sha256(WEIGHTS).hexdigest() in str(caught.value)
    assert hashlib.sha256(altered).hexdigest() in str(caught.value)
    assert not (tmp_path / "cache" / manifest.digest).exists()
    (problem,) = problems(store, manifest.digest)  # on S3 the checksum beside the bytes still looks right
    assert problem.startswith("object altered: model.safetensors")
    commit(store, directory, kind="model", parents=[], producer="again", meta={})
    assert problems(store, manifest.digest) == []
    assert (fetch(store, manifest.digest, tmp_path / "cache") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_truncated_file(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    overwrite(store, f"artefacts/{manifest.digest}/files/model.safetensors", WEIGHTS[:-1])
    (problem,) = problems(store, manifest.digest)
    assert problem.startswith("object altered: model.safetensors")
    assert f"{len(WEIGHTS) - 1} bytes instead of {len(WEIGHTS)}" in problem
    with pytest.raises(ArtefactAltered, match=r"model\.safetensors"):
        fetch(store, manifest.digest, tmp_path / "cache")


def test_a_missing_object(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    store.delete(f"artefacts/{manifest.digest}/files/config.json")
    assert problems(store, manifest.digest) == ["object missing: config.json"]
    with pytest.raises(ObjectMissing, match=r"config\.json"):
        fetch(store, manifest.digest, tmp_path / "cache")
    assert not (tmp_path / "cache" / manifest.digest).exists()
    assert not list(tmp_path.glob("cache/.*"))


def test_a_link_in_the_place_of_a_file_is_not_followed(directory: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    digest = commit(store, directory, kind="model", parents=[], producer="test", meta={}).digest
    path = tmp_path / "store" / "artefacts" / digest / "files" / "config.json"
    path.unlink()
    path.symlink_to(directory / "config.json")
    assert problems(store, digest) == ["object missing: config.json"]
    with pytest.raises(ArtefactAltered, match="symbolic link"):
        fetch(store, digest, tmp_path / "cache")
    commit(store, directory, kind="model", parents=[], producer="test", meta={})
    assert not path.is_symlink()
    assert problems(store, digest) == []
