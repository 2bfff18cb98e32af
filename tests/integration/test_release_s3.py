"""A release with the store on S3: a version's source is plain `s3://`, its files are verified when read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tasks.artefacts import Store, commit, open_store
from tasks.recipe.failures import DataInvalid, Infrastructure
from tasks.release import signature
from tasks.release.cards import keep
from tasks.release.promote import promote, rollback
from tasks.tracking import ledger, registry
from tasks.tracking.runs import RunFacts, open_parent
from tasks.tracking.sources import source_of

pytestmark = pytest.mark.slow


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    import boto3
    from moto.server import ThreadedMotoServer

    key = tmp_path / "key.pem"
    key.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    key.chmod(0o600)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PERENNIAL_SIGNING_KEY": str(key),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    boto3.client("s3").create_bucket(Bucket="models")
    yield open_store("s3://models/store")
    server.stop()


def register(store: Store, folder: Path, text: str) -> registry.VersionInfo:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(text)
    digest = commit(store, folder, kind="model", parents=[], producer="test", meta={}).digest
    tags = {"perennial.candidate": digest, "perennial.report": f"report of {text}"}
    tags["perennial.card"] = keep(store, f"# {text}")
    run = open_parent(RunFacts("pydocs", "run-1", "pydocs", "s3://models/store/runs/run-1/plan.json"))
    made = registry.register("pydocs", source_of(store, digest), run, tags)
    signature.sign(store, made, "test")
    return made


def test_register_promote_load_and_roll_back(store: Store, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    first, second = (register(store, tmp_path / text, text) for text in ("one", "two"))
    assert second.source == f"s3://models/store/artefacts/{second.digest}/files"
    promote(store, "pydocs", first.version, "ada", "good")
    promote(store, "pydocs", second.version, "ada", "better")

    verified = registry.local_path(registry.resolve("models:/pydocs@champion"), tmp_path / "cache")
    assert (verified / "model.safetensors").read_text() == "two"
    target = tmp_path / "download"
    target.mkdir()
    plain = Path(download_artifacts("models:/pydocs@champion", dst_path=str(target)))
    assert sorted(os.listdir(plain)) == ["config.json", "model.safetensors"]
    assert (plain / "model.safetensors").read_text() == "two"

    rollback(store, "pydocs", "ben", "worse")
    assert registry.aliases("pydocs") == {"champion": "1", "previous": "2"}
    assert ledger.champion_at(store, "pydocs", "2999-01-01") == "1"


def test_altered_weights_in_the_bucket_are_refused(store: Store, tmp_path: Path) -> None:
    info = register(store, tmp_path / "one", "one")
    store.write(f"artefacts/{info.digest}/files/model.safetensors", b"two")
    with pytest.raises(DataInvalid, match=r"object altered: model\.safetensors"):
        promote(store, "pydocs", info.version, "ada", "good")
    with pytest.raises(Infrastructure, match="altered"):
        registry.local_path(info, tmp_path / "cache")
