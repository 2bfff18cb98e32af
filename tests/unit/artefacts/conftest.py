"""Both backends of the store, so that every test of its contract runs over each."""

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tasks.artefacts import Store, open_store


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line a request says nothing
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, with the environment set so that boto3 finds it."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    if request.param == "local":
        return open_store(f"file://{tmp_path}/store")
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}/some/prefix")


@pytest.fixture
def make_directory(tmp_path: Path) -> Callable[..., Path]:
    """Call it with {"a.txt": "text", "sub/b.bin": b"bytes"} to get a directory of these files."""

    def make(files: dict[str, str | bytes], name: str = "directory") -> Path:
        directory = tmp_path / name
        for path, content in files.items():
            file = directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return directory

    return make


@pytest.fixture
def damage(tmp_path: Path) -> Callable[[Store, str, bytes], None]:
    """Overwrite an object behind the store's back, as a person with access would: no checksum of ours."""

    def overwrite(store: Store, key: str, data: bytes) -> None:
        path = store.local_path(key)
        if path is not None:
            path.chmod(0o644)
            path.write_bytes(data)
            return
        import boto3

        bucket, _, name = store.locate(key).removeprefix("s3://").partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=name, Body=data)

    return overwrite
