"""A store in a directory: the keys are its paths.

Every write goes to a temporary file in the same filesystem, is flushed to the disk and then renamed (or, to
write only if absent, linked, which fails atomically where the name exists). A reader sees the old object or
the new one, never a part; what a killed writer leaves lies in TEMPORARY, where no key reaches.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tasks.artefacts.files import (
    CHUNK_BYTES,
    disk_failure,
    disk_full,
    name_problem,
    nearest_existing,
)
from tasks.artefacts.store import ArtefactAltered, ObjectMissing, Stat
from tasks.recipe.failures import ConfigInvalid, Infrastructure

TEMPORARY = ".tmp"
ATTEMPTS = 5  # a folder may be removed by a concurrent delete between its creation and its use


class LocalStore:
    """Objects as read-only files under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = root.as_uri()

    def read(self, key: str) -> bytes:
        """The whole object; raises ObjectMissing if it is absent."""
        path = self.local_path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"{path}: no such object in the store {self.uri}") from None
        except OSError as error:
            raise Infrastructure(f"{path}: cannot read from the store: {error}") from error

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write a small object atomically; False, and nothing written, when `if_absent` and it exists."""
        target = self.local_path(key)
        with self._temporary(key, len(data)) as (handle, temporary):
            write_all(handle, data)
            self._finish(handle)
            return self._publish(temporary, target, if_absent)

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Store a file whose digest is `sha256`; raises Infrastructure if it changed since it was hashed."""
        target = self.local_path(key)
        size = path.stat().st_size
        if shutil.disk_usage(nearest_existing(self.root)).free < size:
            raise disk_full(f"storing {key}", self.root, size)
        with self._temporary(key, size) as (handle, temporary):
            digest = copy_hashed(path, handle)
            if digest != sha256:
                raise Infrastructure(
                    f"{path}: changed while it was being stored (hashed as {sha256}, then read as {digest}); "
                    "something still writes to it"
                )
            self._finish(handle)
            self._publish(temporary, target, if_absent=False)

    def download(self, key: str, path: Path, sha256: str) -> None:
        """Copy an object to `path`; raises ArtefactAltered, and leaves nothing, if it is not `sha256`."""
        source = self.local_path(key)
        if not source.is_file():
            raise ObjectMissing(f"{source}: no such object in the store {self.uri}")
        temporary = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                digest = copy_hashed(source, handle)
            finally:
                os.close(handle)
            if digest != sha256:
                raise ArtefactAltered(f"{source}: altered: expected sha256 {sha256}, found {digest}")
            os.replace(temporary, path)
        except OSError as error:
            raise disk_failure(error, f"fetching {key}", path.parent, source.stat().st_size) from error
        finally:
            temporary.unlink(missing_ok=True)

    def stat(self, key: str) -> Stat | None:
        """Size of an object, or None if it is absent; a symbolic link counts as absent."""
        return self._stat(key, self.local_path(key))

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix` (text, not folders), ordered by key."""
        folder = self.root / prefix.rpartition("/")[0]
        if ".." in prefix.split("/") or prefix.startswith("/"):
            raise ConfigInvalid(f"store {self.uri}: the prefix '{prefix}' leaves the store")
        keys = [
            (Path(parent) / name).relative_to(self.root).as_posix()
            for parent, _, names in os.walk(folder)
            for name in names
        ]
        for key in sorted(keys):
            if key.startswith(prefix) and not key.startswith(f"{TEMPORARY}/"):
                found = self._stat(key, self.root / key)
                if found:
                    yield found

    def delete(self, key: str) -> None:
        """Remove an object and the folders it leaves empty; no error if it is absent."""
        path = self.local_path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise Infrastructure(f"{path}: cannot remove it from the store: {error}") from error
        for folder in path.parents:
            if folder == self.root:
                return
            try:
                folder.rmdir()
            except OSError:  # not empty, or another process removed it first
                return

    def local_path(self, key: str) -> Path:
        """Where the key is kept, whether it exists or not; raises ConfigInvalid on an unfit key."""
        if problem := name_problem(key):
            raise ConfigInvalid(f"store {self.uri}: the key {os.fsencode(key)!r} {problem}")
        if key.split("/")[0] == TEMPORARY:
            raise ConfigInvalid(f"store {self.uri}: the key '{key}' is in the store's own folder {TEMPORARY}")
        return self.root / key

    def locate(self, key: str) -> str:
        """The file URI of a key."""
        return self.local_path(key).as_uri()

    def unfinished(self) -> Iterator[Stat]:
        """Temporary files of writers that are still at work or were killed."""
        for path in sorted((self.root / TEMPORARY).glob("*")):
            found = self._stat(f"{TEMPORARY}/{path.name}", path)
            if found:
                yield found

    def discard(self, key: str) -> None:
        """Remove one temporary file."""
        (self.root / TEMPORARY / key.rpartition("/")[2]).unlink(missing_ok=True)

    def _stat(self, key: str, path: Path) -> Stat | None:
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Infrastructure(f"{path}: cannot read from the store: {error}") from error
        if not stat.S_ISREG(found.st_mode):
            return None
        return Stat(key, found.st_size, None, datetime.fromtimestamp(found.st_mtime, UTC))

    @contextlib.contextmanager
    def _temporary(self, key: str, size: int) -> Iterator[tuple[int, Path]]:
        """An open temporary file, gone afterwards whatever happens; OSErrors become Infrastructure."""
        path = self.root / TEMPORARY / uuid.uuid4().hex
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                yield handle, path
            finally:
                os.close(handle)
        except OSError as error:
            raise disk_failure(error, f"storing {key}", self.root, size) from error
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()

    def _finish(self, handle: int) -> None:
        os.fchmod(handle, 0o444)
        os.fsync(handle)

    def _publish(self, temporary: Path, target: Path, if_absent: bool) -> bool:
        for attempt in range(1, ATTEMPTS + 1):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if if_absent:
                    os.link(temporary, target)
                else:
                    os.replace(temporary, target)
            except FileExistsError:
                return False
            except FileNotFoundError:
                if attempt == ATTEMPTS:
                    raise
            else:
                sync_folder(target.parent)
                return True
        raise AssertionError("unreachable: the last attempt returns or raises")


def write_all(handle: int, data: bytes) -> None:
    """Write every byte, however few the kernel takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def copy_hashed(source: Path, handle: int) -> str:
    """Copy a file into an open one; the sha256 of the bytes that were written."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            write_all(handle, chunk)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
