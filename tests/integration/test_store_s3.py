"""The S3 backend against a server: multipart, throttling, refusals and what the user is told."""

import hashlib
import io
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from moto.server import ThreadedMotoServer

from tasks.artefacts import ArtefactAltered, ObjectMissing, commit, fetch, problems
from tasks.artefacts.s3 import S3Store
from tasks.recipe.failures import Infrastructure

MIB = 1 << 20
BIG = os.urandom(MIB) * 12  # with parts of 5 MiB, the smallest that S3 takes: three parts


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A store in a fresh bucket that tries each request once and does not pause between rounds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return S3Store(bucket, "prefix", part_bytes=5 * MIB, request_attempts=1, wait_s=0)


@pytest.fixture
def big(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "big.safetensors"
    path.write_bytes(BIG)
    return path, hashlib.sha256(BIG).hexdigest()


class Raw(io.BytesIO):
    """A response body as botocore reads it."""

    def stream(self, amount: int = MIB, **_: Any) -> Iterator[bytes]:
        while chunk := self.read(amount):
            yield chunk


def answer(request: Any, status: int, code: str = "", body: bytes | None = None) -> AWSResponse:
    """What a server could say: an error code, or a body."""
    data = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode() if body is None else body
    headers = {"Content-Length": str(len(data)), "Content-Type": "application/xml"}
    return AWSResponse(request.url, status, HTTPHeaders.from_dict(headers), Raw(data))


Respond = Callable[[Any], AWSResponse | None]


def intercept(store: S3Store, respond: Respond, times: int = 1_000) -> list[str]:
    """Answer the first `times` requests in the server's place; the list of those that were intercepted."""
    seen: list[str] = []

    def before_send(request: Any, **_: Any) -> AWSResponse | None:
        if len(seen) >= times:
            return None
        found = respond(request)
        if found is not None:
            seen.append(f"{request.method} {request.url}")
        return found

    events: Any = store.client.meta.events  # its type says that handlers return nothing
    events.register("before-send.s3", before_send)
    return seen


def test_multipart_round_trip(store: S3Store, big: tuple[Path, str], tmp_path: Path) -> None:
    path, sha256 = big
    store.upload("a/big", path, sha256)
    head = store.client.head_object(Bucket=store.bucket, Key="prefix/a/big")
    assert head["ETag"].strip('"').endswith("-3")
    found = store.stat("a/big")
    assert found is not None
    assert (found.size, found.sha256) == (len(BIG), sha256)
    store.download("a/big", tmp_path / "copy", sha256)
    assert (tmp_path / "copy").read_bytes() == BIG


def test_files_with_more_parts_than_s3_allows_get_larger_parts(store: S3Store) -> None:
    size = 200 << 30
    part = store._transfer(size).multipart_chunksize
    assert part > 5 * MIB
    assert -(-size // part) <= 10_000


def test_multipart_upload_of_a_file_that_changed_makes_no_object(
    store: S3Store, big: tuple[Path, str]
) -> None:
    path, sha256 = big
    with path.open("r+b") as file:
        file.seek(11 * MIB)
        file.write(b"late change")
    with pytest.raises(Infrastructure, match="changed while it was being stored"):
        store.upload("a/big", path, sha256)
    assert store.stat("a/big") is None
    assert list(store.unfinished()) == []


def test_an_artefact_of_large_and_small_files(store: S3Store, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(BIG)
    for number in range(12):
        (directory / f"{number}.json").write_text("{}" * number)
    manifest = commit(store, directory, kind="model", parents=[], producer="test", meta={})
    fetched = fetch(store, manifest.digest, tmp_path / "cache")
    assert sorted(path.name for path in fetched.iterdir()) == sorted(
        path.name for path in directory.iterdir()
    )
    assert (fetched / "model.safetensors").read_bytes() == BIG
    assert problems(store, manifest.digest) == []


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (400, "RequestTimeout")],
)
def test_passing_failures_are_waited_out(
    store: S3Store, big: tuple[Path, str], tmp_path: Path, status: int, code: str
) -> None:
    seen = intercept(store, lambda request: answer(request, status, code), times=2)
    assert store.write("a/small", b"x")
    assert len(seen) == 2
    seen.clear()
    store.upload("a/big", *big)
    assert len(seen) == 2
    seen.clear()
    assert store.read("a/small") == b"x"
    assert [stat.key for stat in store.list("")] == ["a/big", "a/small"]
    store.download("a/big", tmp_path / "copy", big[1])
    assert (tmp_path / "copy").read_bytes() == BIG


def test_boto3_itself_retries_first(server: str, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", pauses.append)
    patient = S3Store(store.bucket, request_attempts=4)
    seen = intercept(patient, lambda request: answer(request, 503, "SlowDown"), times=3)
    patient.write("a", b"x")
    assert len(seen) == len(pauses) == 3
    assert len(set(pauses)) > 1  # jitter


def test_lasting_failures_say_so(store: S3Store) -> None:
    seen = intercept(store, lambda request: answer(request, 503, "SlowDown"))
    with pytest.raises(Infrastructure, match=r"still failing after 3 rounds.*SlowDown") as caught:
        store.write("a", b"x")
    assert len(seen) == 3
    assert store.bucket in str(caught.value)
    assert store.client.meta.endpoint_url in str(caught.value)


def test_a_refusal_is_not_repeated(store: S3Store) -> None:
    for code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        refused = S3Store(store.bucket, request_attempts=1, wait_s=0)
        seen = intercept(refused, lambda request, code=code: answer(request, 403, code))  # type: ignore[misc]
        with pytest.raises(Infrastructure, match=f"access refused.*{code}.*AWS_ACCESS_KEY_ID") as caught:
            refused.read("a")
        assert len(seen) == 1
        assert store.bucket in str(caught.value)


def test_missing_credentials(store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    boto3.setup_default_session()
    try:
        with pytest.raises(
            Infrastructure, match="access refused: Unable to locate credentials; check AWS_ACC"
        ):
            S3Store(store.bucket, request_attempts=1).write("a", b"x")
    finally:
        boto3.DEFAULT_SESSION = None


def test_missing_bucket_is_told_from_a_missing_key(
    store: S3Store, big: tuple[Path, str], tmp_path: Path
) -> None:
    nowhere = S3Store("no-such-bucket", "prefix", request_attempts=1, wait_s=0)
    operations: list[Callable[[], object]] = [
        lambda: nowhere.stat("a"),
        lambda: nowhere.read("a"),
        lambda: nowhere.write("a", b"x"),
        lambda: nowhere.upload("a", *big),
        lambda: nowhere.download("a", tmp_path / "copy", big[1]),
        lambda: list(nowhere.list("")),
        lambda: nowhere.delete("a"),
    ]
    for operation in operations:
        with pytest.raises(
            Infrastructure, match="bucket 'no-such-bucket' does not exist; create it"
        ) as caught:
            operation()
        assert not isinstance(caught.value, ObjectMissing)
        assert nowhere.client.meta.endpoint_url in str(caught.value)


def test_an_endpoint_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, store: S3Store) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    away = S3Store("bucket", "prefix", request_attempts=1)
    with pytest.raises(
        Infrastructure, match=r"the endpoint cannot be reached.*AWS_ENDPOINT_URL_S3"
    ) as caught:
        away.read("a")
    assert address in str(caught.value)
    assert "bucket 'bucket'" in str(caught.value)


def test_a_lost_answer_to_a_conditional_write_is_not_a_rival(store: S3Store) -> None:
    """The object was written, the connection broke, the retry meets our own object: we have won."""

    def write_and_lose(request: Any) -> AWSResponse:
        direct = boto3.client("s3")
        metadata = {
            name.lower().removeprefix("x-amz-meta-"): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
            if name.lower().startswith("x-amz-meta-")
        }
        direct.put_object(Bucket=store.bucket, Key="prefix/ledger/m/1.json", Body=b"line", Metadata=metadata)
        return answer(request, 500, "InternalError")

    intercept(store, write_and_lose, times=1)
    assert store.write("ledger/m/1.json", b"line", if_absent=True) is True
    assert store.write("ledger/m/1.json", b"line", if_absent=True) is False


def test_a_conflicting_conditional_write_is_tried_again(store: S3Store) -> None:
    seen = intercept(store, lambda request: answer(request, 409, "ConditionalRequestConflict"), times=1)
    assert store.write("ledger/m/1.json", b"line", if_absent=True) is True
    assert len(seen) == 1


def test_an_endpoint_without_conditional_writes_is_named(store: S3Store) -> None:
    intercept(store, lambda request: answer(request, 501, "NotImplemented"))
    with pytest.raises(Infrastructure, match="must support conditional writes"):
        store.write("ledger/m/1.json", b"line", if_absent=True)


def corrupted(content: bytes) -> Respond:
    """Answers GETs of an object with other bytes of the same length."""

    def respond(request: Any) -> AWSResponse | None:
        if request.method != "GET":
            return None
        return answer(request, 200, body=b"X" + content[1:])

    return respond


def test_a_body_damaged_once_on_its_way_is_fetched_again(store: S3Store, tmp_path: Path) -> None:
    store.write("a", b"hello")
    seen = intercept(store, corrupted(b"hello"), times=1)
    store.download("a", tmp_path / "copy", hashlib.sha256(b"hello").hexdigest())
    assert len(seen) == 1
    assert (tmp_path / "copy").read_bytes() == b"hello"


def test_a_body_that_stays_damaged_is_refused(store: S3Store, tmp_path: Path) -> None:
    store.write("a", b"hello")
    intercept(store, corrupted(b"hello"))
    with pytest.raises(ArtefactAltered, match=r"s3://.*/prefix/a: altered: expected sha256 2cf24dba"):
        store.download("a", tmp_path / "copy", hashlib.sha256(b"hello").hexdigest())
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_that_the_server_computed_outranks_ours(store: S3Store) -> None:
    """Bytes replaced together with a copy of our metadata: a server that keeps checksums gives it away."""
    store.write("a", b"hello")

    def head(request: Any) -> AWSResponse | None:
        headers = {
            "Content-Length": "5",
            "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT",
            "x-amz-meta-sha256": hashlib.sha256(b"hello").hexdigest(),
            "x-amz-checksum-type": "FULL_OBJECT",
            "x-amz-checksum-sha256": "MV9b23bQeMQ7isAGTkoBZGErH853yGk0W/yUx1iU7dM=",  # of b"Hello, world!"
        }
        return AWSResponse(request.url, 200, HTTPHeaders.from_dict(headers), Raw(b""))

    intercept(store, head)
    found = store.stat("a")
    assert found is not None
    assert found.sha256 == hashlib.sha256(b"Hello, world!").hexdigest()


def test_listing_goes_over_pages(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        store.write(f"a/{number}", b"x")
    whole = store.client.list_objects_v2
    monkeypatch.setattr(store.client, "list_objects_v2", lambda **given: whole(**given, MaxKeys=2))
    assert [stat.key for stat in store.list("a/")] == [f"a/{number}" for number in range(5)]
