"""A store in an S3 bucket, on any endpoint, through boto3.

Objects are written whole or not at all by S3 itself; what this file adds is proof and patience. Every object
carries its sha256 in its metadata, every upload hashes the very bytes it sends and is abandoned if they are
not the promised ones, every download is hashed before anybody sees it. boto3 retries each request with
jitter; throttling and server errors that outlast that are retried here, more slowly.

The endpoint must support conditional writes (`If-None-Match: *`), as AWS, MinIO, Ceph and R2 do.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)

from tasks.artefacts.files import WORKERS, disk_failure, name_problem, sha256_of
from tasks.artefacts.store import ArtefactAltered, ObjectMissing, Stat
from tasks.recipe.failures import ConfigInvalid, Infrastructure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

PART_BYTES = 16 << 20  # of a multipart transfer; S3 allows 10,000 parts, so larger files get larger parts
MOST_PARTS = 9_000
PARTS_AT_A_TIME = 4  # a file; WORKERS files are under way at once
REQUEST_ATTEMPTS = 6  # boto3's own, within one request
ROUNDS = 3  # of whole operations that throttling or a server error ended
LONGEST_WAIT_S = 30.0

ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
EXISTS = frozenset({"PreconditionFailed", "412"})
PASSING = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequests",
        "RequestTimeout",
    }
    | {"InternalError", "ServiceUnavailable", "ConditionalRequestConflict", "OperationAborted", "BadDigest"}
    | {"429", "500", "502", "503", "504"}
)
REFUSED = frozenset(
    {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
    | {"InvalidToken", "TokenRefreshRequired", "AccountProblem", "AllAccessDisabled"}
)


class S3Store:
    """Objects under `s3://bucket/prefix`."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        part_bytes: int = PART_BYTES,
        request_attempts: int = REQUEST_ATTEMPTS,
        wait_s: float = 2.0,
    ) -> None:
        """Contact nothing yet.

        Args:
            bucket: An existing bucket.
            prefix: Before every key, without slashes at its ends; may be empty.
            part_bytes: Files from this size on are transferred in parts of it; S3 takes no less than 5 MiB.
            request_attempts: How often boto3 tries one request.
            wait_s: Mean pause before the second round of an operation, seconds; it doubles, with full jitter.

        Raises:
            ConfigInvalid: boto3 cannot make a client of the endpoint or profile in the environment.
        """
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.part_bytes = part_bytes
        self.wait_s = wait_s
        self._bucket_seen = False
        config = Config(
            retries={"mode": "standard", "total_max_attempts": request_attempts},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=WORKERS * PARTS_AT_A_TIME,
        )
        try:
            self.client: S3Client = boto3.client("s3", config=config)
        except (ValueError, BotoCoreError) as error:
            raise ConfigInvalid(
                f"store {self.uri}: boto3 cannot use the environment's AWS settings: {error}; check "
                "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION and AWS_PROFILE"
            ) from error

    def read(self, key: str) -> bytes:
        """The whole object; raises ObjectMissing if it is absent."""
        name = self._name(key)

        def get() -> bytes:
            return self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()

        return self._call(f"reading {key}", get, missing=key)

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write a small object atomically; False, and nothing written, when `if_absent` and it exists."""
        name = self._name(key)
        digest = hashlib.sha256(data)
        writer = uuid.uuid4().hex
        arguments: dict[str, Any] = {
            "Bucket": self.bucket,
            "Key": name,
            "Body": data,
            "ChecksumSHA256": base64.b64encode(digest.digest()).decode(),
            "Metadata": {"sha256": digest.hexdigest(), "writer": writer},
        }
        if if_absent:
            arguments["IfNoneMatch"] = "*"

        def put() -> bool:
            try:
                self.client.put_object(**arguments)
            except ClientError as error:
                if if_absent and code_of(error) in EXISTS:
                    # A retry after a lost answer finds our own object: that is success, not a rival.
                    head = self.client.head_object(Bucket=self.bucket, Key=name)
                    return head["Metadata"].get("writer") == writer
                raise
            return True

        return self._call(f"writing {key}", put)

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Store a file whose digest is `sha256`; raises Infrastructure if it changed since it was hashed."""
        name = self._name(key)
        size = path.stat().st_size
        config = self._transfer(size)

        def put() -> None:
            with path.open("rb") as file:
                self.client.upload_fileobj(
                    cast(IO[bytes], HashedReader(file, path, size, sha256)),
                    self.bucket,
                    name,
                    ExtraArgs={"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": sha256}},
                    Config=config,
                )

        self._call(f"uploading {key}", put)

    def download(self, key: str, path: Path, sha256: str) -> None:
        """Copy an object to `path`; raises ArtefactAltered, and leaves nothing, if it is not `sha256`."""
        name = self._name(key)
        temporary = path.with_name(f".{uuid.uuid4().hex}.part")
        found = self.stat(key)
        if found is None:
            raise ObjectMissing(f"{self.locate(key)}: no such object in the store")
        config = self._transfer(found.size)

        def get() -> str:
            self.client.download_file(self.bucket, name, str(temporary), Config=config)
            return sha256_of(temporary)

        try:
            digest = self._call(f"downloading {key}", get, missing=key)
            if digest != sha256:  # once more: the network may be at fault, not the object
                digest = self._call(f"downloading {key}", get, missing=key)
            if digest != sha256:
                raise ArtefactAltered(
                    f"{self.locate(key)}: altered: expected sha256 {sha256}, found {digest}"
                )
            os.replace(temporary, path)
        except OSError as error:
            raise disk_failure(error, f"downloading {key}", path.parent, found.size) from error
        finally:
            temporary.unlink(missing_ok=True)

    def stat(self, key: str) -> Stat | None:
        """Size and stored digest of an object, or None if it is absent.

        The digest is the one S3 computed over the whole object where it did, else the one in our metadata.
        """
        name = self._name(key)

        def head() -> Stat | None:
            try:
                found = self.client.head_object(Bucket=self.bucket, Key=name, ChecksumMode="ENABLED")
            except ClientError as error:
                if code_of(error) in ABSENT:
                    return None
                raise
            sha256 = found["Metadata"].get("sha256")
            if found.get("ChecksumType") == "FULL_OBJECT" and "ChecksumSHA256" in found:
                sha256 = base64.b64decode(found["ChecksumSHA256"]).hex()
            return Stat(key, found["ContentLength"], sha256, found["LastModified"].astimezone(UTC))

        answer = self._call(f"looking up {key}", head)
        if answer is None:
            self._require_bucket()
        return answer

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix` (text, not folders), ordered by key."""
        token: str | None = None
        while True:
            arguments: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self.prefix + prefix}
            if token:
                arguments["ContinuationToken"] = token
            page = self._call(f"listing {prefix}", partial(self.client.list_objects_v2, **arguments))
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self.prefix)
                yield Stat(key, item["Size"], None, item["LastModified"].astimezone(UTC))
            token = page.get("NextContinuationToken")
            if not token:
                return

    def delete(self, key: str) -> None:
        """Remove an object; no error if it is absent."""
        name = self._name(key)
        self._call(f"removing {key}", lambda: self.client.delete_object(Bucket=self.bucket, Key=name))

    def local_path(self, key: str) -> Path | None:
        """None: objects in S3 have no path."""
        self._name(key)
        return None

    def locate(self, key: str) -> str:
        """The s3 URI of a key."""
        return f"s3://{self.bucket}/{self._name(key)}"

    def unfinished(self) -> Iterator[Stat]:
        """Multipart uploads that were begun and neither completed nor aborted; their sizes are not known."""
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self.prefix}
        while True:
            page = self._call(
                "listing unfinished uploads",
                partial(self.client.list_multipart_uploads, **arguments),
            )
            for item in page.get("Uploads", []):
                key = item["Key"].removeprefix(self.prefix)
                yield Stat(f"{key}#{item['UploadId']}", 0, None, item["Initiated"].astimezone(UTC))
            if not page.get("IsTruncated"):
                return
            arguments["KeyMarker"] = page["NextKeyMarker"]
            arguments["UploadIdMarker"] = page["NextUploadIdMarker"]

    def discard(self, key: str) -> None:
        """Abort one multipart upload."""
        name, _, upload = key.rpartition("#")

        def abort() -> None:
            try:
                self.client.abort_multipart_upload(
                    Bucket=self.bucket, Key=self.prefix + name, UploadId=upload
                )
            except ClientError as error:
                if code_of(error) not in ABSENT | {"NoSuchUpload"}:
                    raise

        self._call(f"aborting the upload of {name}", abort)

    def _name(self, key: str) -> str:
        if problem := name_problem(key):
            raise ConfigInvalid(f"store {self.uri}: the key {os.fsencode(key)!r} {problem}")
        return self.prefix + key

    def _transfer(self, size: int) -> TransferConfig:
        part = max(self.part_bytes, -(-size // MOST_PARTS))
        config = TransferConfig(
            multipart_threshold=part, multipart_chunksize=part, max_concurrency=PARTS_AT_A_TIME
        )
        config.max_in_memory_upload_chunks = PARTS_AT_A_TIME
        return config

    def _call(self, what: str, function: Callable[[], T], missing: str = "") -> T:
        """Run one operation; passing failures again after a pause, the others as a message for a person."""
        for attempt in range(1, ROUNDS + 1):
            try:
                return function()
            except (ClientError, BotoCoreError, Boto3Error) as error:
                cause = cause_of(error)
                if missing and code_of(cause) in ABSENT:
                    self._require_bucket()
                    raise ObjectMissing(f"{self.locate(missing)}: no such object in the store") from error
                if attempt == ROUNDS or not passes(cause):
                    raise self._failure(what, cause) from error
                time.sleep(random.uniform(0, min(LONGEST_WAIT_S, self.wait_s * 2**attempt)))
        raise AssertionError("unreachable: the last round returns or raises")

    def _require_bucket(self) -> None:
        """A missing key and a missing bucket give the same 404 to some requests; tell them apart, once."""
        if self._bucket_seen:
            return

        def head() -> None:
            try:
                self.client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if code_of(error) in ABSENT:
                    raise self._no_bucket() from error
                if code_of(error) not in REFUSED:  # objects may be allowed where the bucket itself is not
                    raise

        self._call("looking up the bucket", head)
        self._bucket_seen = True

    def _no_bucket(self) -> Infrastructure:
        return Infrastructure(
            f"store {self.uri} at {self.client.meta.endpoint_url}: the bucket '{self.bucket}' does not "
            "exist; create it or correct PERENNIAL_STORE"
        )

    def _failure(self, what: str, error: BaseException) -> Infrastructure:
        code = code_of(error)
        where = f"store {self.uri} at {self.client.meta.endpoint_url}, bucket '{self.bucket}', {what}"
        if code == "NoSuchBucket":
            return self._no_bucket()
        if code in REFUSED or isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            remedy = (
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile or role) and that they "
                "may list, read, write and delete in this bucket"
            )
            return Infrastructure(f"{where}: access refused: {error}; {remedy}")
        if isinstance(error, (EndpointConnectionError, ConnectTimeoutError, SSLError, ProxyConnectionError)):
            remedy = "check AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, the network and the certificate"
            return Infrastructure(f"{where}: the endpoint cannot be reached: {error}; {remedy}")
        if code in ("NotImplemented", "501"):
            return Infrastructure(
                f"{where}: {error}; the endpoint must support conditional writes (If-None-Match) and SHA-256 "
                "checksums"
            )
        if passes(error):
            return Infrastructure(f"{where}: still failing after {ROUNDS} rounds: {error}; try again later")
        return Infrastructure(f"{where}: {error}")


class HashedReader:
    """A file that refuses to give its last bytes unless all of them together have the promised digest.

    It cannot seek, so the transfer reads it once, in order, into the parts it sends: what is hashed is what
    is sent, and an upload that would store other bytes is abandoned before S3 makes an object of it.
    """

    def __init__(self, file: Any, path: Path, size: int, sha256: str) -> None:
        self.file, self.path, self.size, self.sha256 = file, path, size, sha256
        self.digest = hashlib.sha256()
        self.done = 0

    def read(self, amount: int = -1) -> bytes:
        """The next bytes; raises Infrastructure at the end if the file changed since it was hashed."""
        data: bytes = self.file.read(amount)
        self.digest.update(data)
        self.done += len(data)
        at_end = self.done >= self.size or len(data) == 0 or len(data) < amount
        if at_end and self.digest.hexdigest() != self.sha256:
            raise Infrastructure(
                f"{self.path}: changed while it was being stored (hashed as {self.sha256}, then read as "
                f"{self.digest.hexdigest()}); something still writes to it"
            )
        return data


def cause_of(error: BaseException) -> BaseException:
    """The failure under boto3's transfer wrappers."""
    last: BaseException | None = getattr(error, "last_exception", None)
    if isinstance(error, Boto3Error):
        return last or error.__cause__ or error.__context__ or error
    return error


def code_of(error: BaseException) -> str:
    """S3's error code, or "" where there was no answer."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""


def passes(error: BaseException) -> bool:
    """Whether waiting may mend it: throttling, server errors and connections that broke."""
    if isinstance(error, (EndpointConnectionError, ConnectTimeoutError, SSLError, ProxyConnectionError)):
        return False  # boto3 has tried long enough; the step's own retry comes later
    return code_of(error) in PASSING or isinstance(error, (HTTPClientError, IncompleteReadError))
