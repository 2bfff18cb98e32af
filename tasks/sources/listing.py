"""Which files a URI means: one file, everything under a folder, or what a glob matches; local or in S3."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure
from tasks.recipe.uris import check_path

_WILD = re.compile(r"[*?\[]")
_S3_REFUSED = frozenset(
    {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
)
_S3_ABSENT = frozenset({"404", "NoSuchBucket", "NoSuchKey", "NotFound"})


@dataclass(frozen=True)
class Seen:
    """What is known of a file without reading it.

    Attributes:
        size: Bytes.
        mark: Differs once the file was written again: S3's ETag, or the time of the change.
        modified: When it was last written, UTC.
    """

    size: int
    mark: str
    modified: datetime


@dataclass(frozen=True)
class Listing:
    """The files of a dataset.

    Attributes:
        names: Their names relative to the folder that was asked for, sorted.
        opened: Name -> a context in which the file lies on the local disk.
        seen: Name -> what is known of it.
    """

    names: list[str]
    opened: Callable[[str], AbstractContextManager[Path]]
    seen: Callable[[str], Seen]


def list_files(uri: str) -> Listing:
    """The files that a `file://` or `s3://` URI means.

    A URI with `*`, `?` or `[...]` is a glob (`**/` is any number of folders); otherwise it is a file's name,
    or a folder's, which means every file under it whose name, and whose folders' names, begin with neither
    `.` nor `_` (bookkeeping of other tools).

    Raises:
        DataInvalid: Nothing is there, or nothing matches.
        ConfigInvalid: The URI names no bucket, or the credentials are refused.
        Infrastructure: S3 cannot be reached.
    """
    listing = _in_s3(uri) if uri.startswith("s3://") else _local(uri)
    if not listing.names:
        what = "no file matches" if _WILD.search(uri) else "there is no such file, or no file in that folder"
        raise DataInvalid(f"{uri}: {what}; check the name and where the data was written")
    return listing


def _local(uri: str) -> Listing:
    given = Path(uri.removeprefix("file://"))
    if given.is_file():
        return _in_folder(given.parent, [given.name])
    base, pattern = (str(given), "") if given.is_dir() else _split(str(given))
    folder = Path(base or ".")
    if not folder.is_dir():
        return _in_folder(folder, [])
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return _in_folder(folder, _chosen(names, pattern))


def _in_folder(folder: Path, names: list[str]) -> Listing:
    def seen(name: str) -> Seen:
        stat = (folder / name).stat()
        return Seen(
            stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}", datetime.fromtimestamp(stat.st_mtime, UTC)
        )

    return Listing(names, lambda name: _opened(folder / name), seen)


def _opened(path: Path) -> AbstractContextManager[Path]:
    """A local file, unless it is a link to where nothing may be read."""
    check_path(path)
    return nullcontext(path)


def _in_s3(uri: str) -> Listing:
    import boto3
    import boto3.exceptions
    import botocore.exceptions

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigInvalid(f"'{uri}' names no bucket; write s3://bucket/key")
    base, pattern = _split(key)
    prefix = f"{base.strip('/')}/" if base.strip("/") else ""

    @contextlib.contextmanager
    def asked(what: str) -> Iterator[None]:
        try:
            yield
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code in _S3_ABSENT:
                raise DataInvalid(f"{what}: there is none ({code})") from error
            if code in _S3_REFUSED:
                raise ConfigInvalid(f"{what}: the credentials do not allow reading it ({code})") from error
            raise Infrastructure(f"{what}: S3 answered {code}: {error}") from error
        except botocore.exceptions.NoCredentialsError as error:
            raise ConfigInvalid(f"{what}: no S3 credentials; set AWS_ACCESS_KEY_ID or a role") from error
        except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as error:
            raise Infrastructure(f"{what}: S3 cannot be reached: {error}") from error

    with asked(uri):
        client = boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))
        start = prefix if pattern else key.rstrip("/")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start)
        entries = {entry["Key"]: entry for page in pages for entry in page.get("Contents", [])}
    keys = list(entries)
    if not pattern and key in keys:  # one object
        prefix, names = key[: key.rfind("/") + 1], [key.rsplit("/", 1)[-1]]
    else:
        inside = [k[len(prefix) :] for k in keys if k.startswith(prefix) and not k.endswith("/")]
        names = _chosen(inside, pattern)

    @contextlib.contextmanager
    def opened(name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "object"
            with asked(f"s3://{bucket}/{prefix}{name}"):
                client.download_file(bucket, prefix + name, str(path))
            yield path

    def seen(name: str) -> Seen:
        entry = entries[prefix + name]
        return Seen(entry["Size"], entry["ETag"].strip('"'), entry["LastModified"].astimezone(UTC))

    return Listing(names, opened, seen)


def _split(path: str) -> tuple[str, str]:
    """A path as the folder before the first wildcard and the pattern from there on ("" without one)."""
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return "/".join(parts[:first]), "/".join(parts[first:])


def _chosen(names: list[str], pattern: str) -> list[str]:
    """The names that match a glob; without one, those that no tool keeps for itself."""
    if pattern:
        wanted = re.compile(_as_regex(pattern))
        return sorted(name for name in names if wanted.fullmatch(name))
    return sorted(name for name in names if not any(part[0] in "._" for part in name.split("/") if part))


def _as_regex(pattern: str) -> str:
    regex, rest = "", pattern
    while rest:
        for glob, meaning in (("**/", "(?:.*/)?"), ("**", ".*"), ("*", "[^/]*"), ("?", "[^/]")):
            if rest.startswith(glob):
                regex, rest = regex + meaning, rest[len(glob) :]
                break
        else:
            choice = re.match(r"\[[^\]/]+\]", rest)
            literal = choice.group() if choice else rest[0]
            regex += literal.replace("[!", "[^") if choice else re.escape(literal)
            rest = rest[len(literal) :]
    return regex
