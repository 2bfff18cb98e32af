"""A full disk: a clear error, no half artefact, no litter."""

import errno
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tasks.artefacts import commit, fetch, open_store
from tasks.artefacts.local import LocalStore
from tasks.recipe.failures import Infrastructure


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "directory"
    folder.mkdir()
    (folder / "small.json").write_text("{}")
    (folder / "large.bin").write_bytes(bytes(1 << 20))
    return folder


def left(root: Path) -> list[str]:
    return sorted(name for _, _, names in os.walk(root) for name in names)


LIMITED = """
import resource, sys
from pathlib import Path
from tasks.artefacts import commit, fetch, open_store
from tasks.recipe.failures import Infrastructure

action, store, *rest = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if action == "commit":
        commit(open_store(store), Path(rest[0]), kind="model", parents=[], producer="test", meta={})
    else:
        fetch(open_store(store), rest[0], Path(rest[1]))
except Infrastructure as error:
    print(error)
    sys.exit(error.failure)
"""


def test_the_kernel_refuses_the_bytes(directory: Path, tmp_path: Path) -> None:
    """The limit on file sizes makes the real write fail half way, as a full disk or a quota does."""
    command = [sys.executable, "-c", LIMITED, "commit", str(tmp_path / "store"), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "disk full: storing artefacts/" in done.stdout
    assert "large.bin needs 1.0 MiB" in done.stdout
    assert str(tmp_path / "store") in done.stdout
    assert set(left(tmp_path / "store")) <= {"small.json"}
    manifest = commit(
        open_store(str(tmp_path / "store")), directory, kind="model", parents=[], producer="test", meta={}
    )
    assert len(manifest.files) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_while_writing(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = LocalStore(tmp_path / "store")
    real = os.write

    def write(handle: int, data: Any) -> int:
        if len(data) > 4096:
            raise OSError(number, os.strerror(number))
        return real(handle, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(Infrastructure, match=r"disk full: storing .*large\.bin needs 1\.0 MiB .* free"):
        commit(store, directory, kind="model", parents=[], producer="test", meta={})
    monkeypatch.undo()
    assert set(left(tmp_path / "store")) <= {"small.json"}


def test_disk_full_at_the_last_moment(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some filesystems say so only when the bytes are flushed; the manifest is the last that is."""
    store = LocalStore(tmp_path / "store")
    real, calls = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if os.fstat(handle).st_size > 300 and calls > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Infrastructure, match=r"disk full: storing .*manifest\.json"):
        commit(store, directory, kind="model", parents=[], producer="test", meta={})
    monkeypatch.undo()
    assert left(tmp_path / "store") == ["large.bin", "small.json"]


def test_too_little_room_is_seen_before_a_byte_is_written(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(Infrastructure, match=r"large\.bin needs 1\.0 MiB and .* has 9\.8 KiB free"):
        commit(LocalStore(tmp_path / "store"), directory, kind="model", parents=[], producer="test", meta={})
    assert set(left(tmp_path / "store")) <= {"small.json"}


def test_other_write_errors_keep_their_own_words(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(handle: int, data: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(Infrastructure, match=r"cannot write under .*Input/output error"):
        LocalStore(tmp_path / "store").write("a", b"x")
    monkeypatch.undo()
    assert left(tmp_path / "store") == []


def test_a_store_under_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Infrastructure, match="cannot write under"):
        LocalStore(tmp_path / "file" / "store").write("a", b"x")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


def test_disk_full_while_fetching_from_s3(
    directory: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}")
    digest = commit(store, directory, kind="model", parents=[], producer="test", meta={}).digest
    command = [sys.executable, "-c", LIMITED, "fetch", f"s3://{bucket}", digest, str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "disk full: downloading artefacts/" in done.stdout
    assert left(tmp_path / "cache") == []
    assert left(fetch(store, digest, tmp_path / "cache")) == ["large.bin", "small.json"]
