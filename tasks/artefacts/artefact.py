"""Artefacts: immutable directories, committed whole, named by the digest of their content.

    artefacts/<digest>/files/<path>      the files
    artefacts/<digest>/manifest.json     written last: without it there is no artefact
    artefacts/<digest>/altered/<path>    on S3, a reader found this file altered: cleared by the repair
    deltas/<digest>/...                  the weights as a difference from another artefact's (stored_delta.py)

The digest covers the kind and the content only (docs/decisions/0003): whoever makes the same files gets the
same artefact, and the manifest of the first maker stays.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.artefacts import stored_delta
from tasks.artefacts.files import disk_failure, in_parallel, name_problem, regular_files, sha256_of
from tasks.artefacts.store import ArtefactAltered, ObjectMissing, Store
from tasks.artefacts.stored_delta import Delta, find_delta
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure

SHA256 = r"^[0-9a-f]{64}$"

logger = logging.getLogger(__name__)


class FileEntry(BaseModel):
    """One file of an artefact: its "/"-separated relative path, its bytes and their digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=SHA256)

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if problem := name_problem(path):
            raise ValueError(f"the path {path!r} {problem}")
        return path


class Manifest(BaseModel):
    """What an artefact is: its content, and how its first maker made it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    digest: str = Field(pattern=SHA256)
    kind: str = Field(min_length=1)
    files: tuple[FileEntry, ...] = Field(min_length=1)
    parents: tuple[str, ...] = ()
    producer: str
    meta: dict[str, Any] = Field(default_factory=dict)
    created: datetime

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def canonical(value: object) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8, finite numbers only."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_of(kind: str, files: Iterable[FileEntry]) -> str:
    """The digest of an artefact of these files, in whatever order they come."""
    entries = sorted((file.model_dump() for file in files), key=lambda entry: str(entry["path"]))
    return hashlib.sha256(canonical({"kind": kind, "files": entries})).hexdigest()


def describe(directory: Path) -> tuple[FileEntry, ...]:
    """Size and digest of every file in a directory, ordered by path; raises DataInvalid on unfit names."""

    def entry(item: tuple[str, Path]) -> FileEntry:
        name, path = item
        return FileEntry(path=name, size=path.stat().st_size, sha256=sha256_of(path))

    return tuple(in_parallel(entry, regular_files(directory).items()))


def commit(
    store: Store,
    directory: Path,
    *,
    kind: str,
    parents: Sequence[str],
    producer: str,
    meta: Mapping[str, Any],
) -> Manifest:
    """Make an artefact of a directory: upload what is missing or altered, verify, write the manifest last.

    Committing content that the store already has repairs what is damaged and keeps the manifest it found, so
    `parents`, `producer` and `meta` of the first commit stay. Killed at any moment it leaves no readable
    artefact that was not there before.

    Args:
        store: Where to.
        directory: Only regular files; empty folders are not kept.
        kind: One of tasks.stage.KINDS.
        parents: Digests of the artefacts it was made from.
        producer: The fingerprint or name of what made it.
        meta: Small JSON facts, finite numbers only.

    Raises:
        DataInvalid: The directory is missing or empty, or holds links or names that cannot be stored.
        ConfigInvalid: `meta` is not JSON.
        Infrastructure: The store failed, or a file changed meanwhile.
    """
    if not directory.is_dir():
        raise DataInvalid(f"{directory}: no such directory to make an artefact of kind '{kind}' from")
    files = describe(directory)
    if not files:
        raise DataInvalid(f"{directory}: empty; an artefact of kind '{kind}' needs at least one file")
    digest = digest_of(kind, files)
    try:
        new = Manifest(
            digest=digest,
            kind=kind,
            files=files,
            parents=tuple(parents),
            producer=producer,
            meta=json.loads(canonical(dict(meta))),
            created=datetime.now(UTC),
        )
    except (TypeError, ValueError) as error:
        raise ConfigInvalid(
            f"{directory}: the manifest of this '{kind}' is not plain JSON: {error}"
        ) from error

    found = _manifest_found(store, digest)
    damage = _damage(store, digest, files)
    if found and damage:
        logger.warning("artefact %s: repairing: %s", digest, "; ".join(damage.values()))
    delta = find_delta(store, digest)
    broken = delta is not None and bool(damage.keys() & delta.paths.keys())
    wanted = [
        file for file in files if file.path in damage or (broken and delta and file.path in delta.paths)
    ]
    in_parallel(lambda file: store.upload(key_of(digest, file), directory / file.path, file.sha256), wanted)
    for path in damage.keys() - {file.path for file in files}:
        store.delete(f"{_files(digest)}{path}")
    _verify_sizes(store, digest, wanted)
    for stat in list(store.list(_altered(digest))):
        store.delete(stat.key)
    if broken:  # the files themselves are there again
        store.delete(stored_delta.delta_key(digest))
    return _publish(store, new, found)


def load_manifest(store: Store, digest: str) -> Manifest:
    """The manifest of an artefact.

    Raises:
        ObjectMissing: There is no such artefact, or its commit was never finished.
        ArtefactAltered: The manifest is not one, or it describes another artefact.
    """
    key = manifest_key(digest)
    data = store.read(key)
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ArtefactAltered(f"{store.locate(key)}: altered: not a manifest: {error}") from error
    found = digest_of(manifest.kind, manifest.files)
    if manifest.digest != digest or found != digest:
        raise ArtefactAltered(
            f"{store.locate(key)}: altered: expected the artefact {digest}, found the content of {found}"
        )
    return manifest


def problems(store: Store, digest: str) -> list[str]:
    """Why the artefact cannot be used, in words; [] if every object is there with its size and content.

    A local store is read and hashed in full. On S3 sizes and stored checksums are compared: bytes that
    changed under an unchanged checksum are found by `fetch`, which hashes everything it reads and leaves word
    of it for this function and for `commit`.
    """
    try:
        manifest = load_manifest(store, digest)
    except ObjectMissing:
        return ["object missing: manifest.json"]
    except ArtefactAltered:
        return ["object altered: manifest.json"]
    return list(_damage(store, digest, manifest.files).values())


def fetch(store: Store, digest: str, cache: Path) -> Path:
    """A directory with exactly the artefact's files, every one verified just now; not to be written to.

    Args:
        store: Where from.
        digest: Which artefact.
        cache: Where copies of remote artefacts go, `cache/<digest>/`, and those that are kept as a
            difference; a local store hands out its own directory, without a copy. A damaged copy is replaced.

    Raises:
        ObjectMissing: The artefact, or one of its files, is not in the store.
        ArtefactAltered: A file's content is not the recorded one, or there are files that it never had.
    """
    manifest = load_manifest(store, digest)
    delta = find_delta(store, digest)
    stored = store.local_path(_files(digest).rstrip("/"))
    if stored is not None and delta is None:
        check_copy(stored, manifest.files)
        return stored
    target = cache / digest
    if target.exists():
        try:
            check_copy(target, manifest.files)
            return target
        except (ArtefactAltered, ObjectMissing) as error:
            logger.warning("%s: the cached copy is damaged and is fetched again: %s", target, error)
            remove_tree(target)

    def get(file: FileEntry, path: Path) -> None:
        try:
            store.download(key_of(digest, file), path, file.sha256)
        except ArtefactAltered:  # under an unchanged checksum, or somebody would have noticed before
            store.write(f"{_altered(digest)}{file.path}", b"")
            raise

    if delta is None:
        download_tree(get, manifest.files, target)
    else:
        _rebuild_tree(store, delta, manifest.files, get, target, fetch(store, delta.base, cache))
    return target


def _rebuild_tree(
    store: Store,
    delta: Delta,
    files: Sequence[FileEntry],
    get: Callable[[FileEntry, Path], None],
    target: Path,
    base: Path,
) -> None:
    """Fill a directory with an artefact that is kept as a difference; every file is checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    own = target.with_name(f".{target.name}.{uuid.uuid4().hex}.own")
    try:
        for file in files:
            if file.path not in delta.paths:
                (own / file.path).parent.mkdir(parents=True, exist_ok=True)
                get(file, own / file.path)

        def make(file: FileEntry, path: Path) -> None:
            if file.path not in delta.paths:
                shutil.copyfile(own / file.path, path)
                return
            stored_delta.rebuild(store, delta, file.path, base, own, path)
            if (found := sha256_of(path)) != file.sha256:
                raise ArtefactAltered(
                    f"artefact {delta.digest}: {file.path} made from its difference has sha256 {found} "
                    f"instead of {file.sha256}"
                )

        download_tree(make, files, target)
    finally:
        remove_tree(own)


def download_tree(get: Callable[[FileEntry, Path], None], files: Sequence[FileEntry], target: Path) -> None:
    """Fill a directory by `get(file, path)`; it appears whole or not at all, with read-only files."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        for folder in {(temporary / file.path).parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        in_parallel(lambda file: get(file, temporary / file.path), files)
        for file in files:
            (temporary / file.path).chmod(0o444)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first; its copy is verified like any other
                raise
            check_copy(target, files)
    except OSError as error:
        needed = sum(file.size for file in files)
        raise disk_failure(error, f"fetching {target.name}", target.parent, needed) from error
    finally:
        remove_tree(temporary)


def check_copy(directory: Path, files: Sequence[FileEntry]) -> None:
    """Hash every file of a local copy; raises ObjectMissing or ArtefactAltered with the first difference."""
    try:
        present = regular_files(directory) if directory.is_dir() else {}
    except DataInvalid as error:  # a link or an odd name: no commit stores such a thing
        raise ArtefactAltered(f"{directory}: altered: {error}") from error
    recorded = {file.path for file in files}
    for name, path in present.items():
        if name not in recorded:
            raise ArtefactAltered(f"{path}: altered: the artefact never had this file; remove it")

    def check(file: FileEntry) -> None:
        path = directory / file.path
        if file.path not in present:
            raise ObjectMissing(f"{path}: object missing")
        size = path.stat().st_size
        if size != file.size:
            raise ArtefactAltered(
                f"{path}: altered: expected {file.size} bytes with sha256 {file.sha256}, found {size} bytes "
                f"with sha256 {sha256_of(path)}"
            )
        found = sha256_of(path)
        if found != file.sha256:
            raise ArtefactAltered(f"{path}: altered: expected sha256 {file.sha256}, found {found}")

    in_parallel(check, files)


def remove_tree(directory: Path) -> None:
    """Remove a scratch directory if it exists; raises Infrastructure if it cannot be removed."""
    doomed = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.gone")
    try:
        os.rename(directory, doomed)  # at once, so that nobody reads it half removed
        shutil.rmtree(doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Infrastructure(f"{directory}: cannot remove it: {error}") from error


def manifest_key(digest: str) -> str:
    """Key of an artefact's manifest."""
    return f"artefacts/{digest}/manifest.json"


def key_of(digest: str, file: FileEntry) -> str:
    """Key of one of an artefact's files."""
    return f"{_files(digest)}{file.path}"


def _files(digest: str) -> str:
    return f"artefacts/{digest}/files/"


def _altered(digest: str) -> str:
    return f"artefacts/{digest}/altered/"


def _manifest_found(store: Store, digest: str) -> Manifest | None:
    try:
        return load_manifest(store, digest)
    except ObjectMissing:
        return None
    except ArtefactAltered as error:
        logger.warning("artefact %s: its manifest is replaced: %s", digest, error)
        return None


def _damage(store: Store, digest: str, files: Sequence[FileEntry]) -> dict[str, str]:
    """What is wrong with the stored files: path -> "object missing: ..." and so on, ordered by path."""
    prefix = _files(digest)
    delta = find_delta(store, digest)
    elsewhere = delta.paths if delta else {}
    sizes = {stat.key.removeprefix(prefix): stat.size for stat in store.list(prefix)}

    def check(file: FileEntry) -> str | None:
        if file.path in elsewhere:
            return None
        if file.path not in sizes:
            return f"object missing: {file.path}"
        if sizes[file.path] != file.size:
            return f"object altered: {file.path} ({sizes[file.path]} bytes instead of {file.size})"
        local = store.local_path(key_of(digest, file))
        if local is not None:
            found: str | None = sha256_of(local)
        else:
            stat = store.stat(key_of(digest, file))
            found = stat.sha256 if stat else None
        if found != file.sha256:
            return f"object altered: {file.path} (sha256 {found} instead of {file.sha256})"
        return None

    words = dict(zip((file.path for file in files), in_parallel(check, files), strict=True))
    recorded = {file.path for file in files}
    if delta is not None:
        words.update(stored_delta.damage(store, delta))
        for problem in problems(store, delta.base)[:1]:
            words.update(
                {path: f"object missing: {path} (its base {delta.base}: {problem})" for path in delta.paths}
            )
    words.update({path: f"object unexpected: {path}" for path in sizes if path not in recorded})
    seen = {stat.key.removeprefix(_altered(digest)) for stat in store.list(_altered(digest))}
    words.update({path: f"object altered: {path} (a reader found other bytes)" for path in seen & recorded})
    return {path: text for path, text in sorted(words.items()) if text}


def _verify_sizes(store: Store, digest: str, files: Sequence[FileEntry]) -> None:
    """The uploads hashed what they sent; ask the store once more that it has all of it."""

    def check(file: FileEntry) -> None:
        stat = store.stat(key_of(digest, file))
        if stat is None or stat.size != file.size or stat.sha256 not in (None, file.sha256):
            raise Infrastructure(
                f"{store.locate(key_of(digest, file))}: stored as {stat}, expected {file.size} bytes with "
                f"sha256 {file.sha256}; the store lost or changed it just after the upload"
            )

    in_parallel(check, files)


def _publish(store: Store, new: Manifest, found: Manifest | None) -> Manifest:
    """Write the manifest, and return the one that now stands."""
    key = manifest_key(new.digest)
    kept = found or new
    data = kept.model_dump_json(indent=1).encode() + b"\n"
    if found is None and store.write(key, data, if_absent=True):
        return new
    if found is None and (rival := _manifest_found(store, new.digest)):
        return rival  # another process committed the same content meanwhile
    # An altered manifest is replaced; a sound one is written again so that it is young: garbage collection
    # must not take an old artefact that a run has just made anew and not yet recorded.
    store.write(key, data)
    return kept
