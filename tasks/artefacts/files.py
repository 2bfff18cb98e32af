"""Names, digests and walks of files: what both backends and the artefact functions share."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tasks.recipe.failures import DataInvalid, Infrastructure

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 8  # files hashed or transferred at a time; hashing and sockets both release the interpreter's lock
CHUNK_BYTES = 1 << 20
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LONGEST_NAME_BYTES = 900  # S3 allows 1024 for a whole key; the rest is for the store's own folders


def name_problem(name: str) -> str | None:
    """What makes `name` unfit as a "/"-separated relative name of an object or file, or None.

    Refused are names that could leave their folder, that two backends would store differently, or that a
    person could not type: empty and dotted segments, backslashes, control characters, undecodable bytes.
    """
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8"
    if len(encoded) > LONGEST_NAME_BYTES:
        return f"is longer than {LONGEST_NAME_BYTES} bytes"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "holds a control character"
    if "\\" in name:
        return "holds a backslash"
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        return "is not a plain relative name (it is absolute, or has an empty, '.' or '..' segment)"
    return None


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular_files(directory: Path) -> dict[str, Path]:
    """Every file under `directory` by its "/"-separated relative name, ordered by name.

    Raises:
        DataInvalid: A symbolic link, a device, a socket, or a name that cannot be stored.
    """
    found: dict[str, Path] = {}
    folders = [directory]
    while folders:
        for entry in os.scandir(folders.pop()):
            name = Path(entry.path).relative_to(directory).as_posix()
            if problem := name_problem(name):
                raise DataInvalid(f"{directory}: the name {os.fsencode(name)!r} {problem}; rename the file")
            if entry.is_symlink():
                raise DataInvalid(
                    f"{directory}: '{name}' is a symbolic link to '{os.readlink(entry.path)}'; an artefact "
                    "holds only files: copy the target in its place"
                )
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                found[name] = Path(entry.path)
            else:
                raise DataInvalid(f"{directory}: '{name}' is neither a file nor a directory; remove it")
    return dict(sorted(found.items()))


def in_parallel(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply `function` to every item on a few threads; results in order, the first failure is raised."""
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def readable_bytes(count: int) -> str:
    """A byte count for a person: 1536 is "1.5 KiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def disk_failure(error: OSError, what: str, where: Path, needed: int) -> Infrastructure:
    """The failure to raise for an OSError while writing `needed` bytes of `what` under `where`."""
    if error.errno not in NO_ROOM:
        return Infrastructure(f"{what}: cannot write under {where}: {error}")
    return disk_full(what, where, needed)


def disk_full(what: str, where: Path, needed: int) -> Infrastructure:
    """The failure to raise when `needed` bytes of `what` do not fit under `where`."""
    free = shutil.disk_usage(nearest_existing(where)).free
    return Infrastructure(
        f"disk full: {what} needs {readable_bytes(needed)} and {where} has {readable_bytes(free)} free (a "
        "quota may allow less); free some space (perennial gc shows what can go) or move it to a larger disk"
    )


def nearest_existing(path: Path) -> Path:
    """`path` or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path
