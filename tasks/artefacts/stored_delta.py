"""Artefacts of which the weights are kept as a difference from another one's; reading is transparent.

    deltas/<digest>/delta.json      written last: from then on the difference stands for the files
    deltas/<digest>/files/<path>    what one file has beyond the base
    artefacts/<digest>/...          the manifest, and the files that are not weights, as ever

The artefact keeps its digest: `fetch` makes the files again and checks every one of them against the
manifest, so a base that changed, or a codec that did, is found like any other damage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.artefacts.files import sha256_of
from tasks.artefacts.store import ArtefactAltered, ObjectMissing, Store
from tasks.recipe.failures import DataInvalid

PREFIX = "deltas/"
SHA256 = r"^[0-9a-f]{64}$"


class KeptFile(BaseModel):
    """A file that is kept as a difference.

    Attributes:
        path: Of the file in the artefact.
        size: Bytes of the difference, and their `sha256`.
        head: Bytes of the file's safetensors header, and of its compressed form at the difference's start.
        parts: How each tensor is kept (tasks.artefacts.difference.Part).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: int
    sha256: str = Field(pattern=SHA256)
    head: tuple[int, int]
    parts: list[dict[str, Any]]


class Delta(BaseModel):
    """How an artefact is kept as a difference: `delta.json`.

    Attributes:
        base: Digest of the artefact it differs from, which is kept whole.
        whole_bytes: What the files took before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    digest: str = Field(pattern=SHA256)
    base: str = Field(pattern=SHA256)
    files: list[KeptFile] = Field(min_length=1)
    whole_bytes: int
    created: str

    @property
    def paths(self) -> dict[str, KeptFile]:
        """The files by path."""
        return {file.path: file for file in self.files}

    @property
    def bytes(self) -> int:
        """What the differences take."""
        return sum(file.size for file in self.files)


def find_delta(store: Store, digest: str) -> Delta | None:
    """How an artefact is kept as a difference, or None where its files are kept.

    Raises:
        ArtefactAltered: What says so is unreadable, or is another artefact's.
    """
    try:
        data = store.read(delta_key(digest))
    except ObjectMissing:
        return None
    try:
        found = Delta.model_validate_json(data)
    except ValidationError as error:
        raise ArtefactAltered(f"{store.locate(delta_key(digest))}: altered: {error}") from error
    if found.digest != digest:
        raise ArtefactAltered(f"{store.locate(delta_key(digest))}: altered: it is of {found.digest}")
    return found


def damage(store: Store, delta: Delta) -> dict[str, str]:
    """What is wrong with the differences themselves: path -> in words."""
    found = {}
    for file in delta.files:
        stat = store.stat(part_key(delta.digest, file.path))
        local = store.local_path(part_key(delta.digest, file.path))
        if stat is None:
            found[file.path] = f"object missing: the difference of {file.path}"
        elif stat.size != file.size or (sha256_of(local) if local else stat.sha256) != file.sha256:
            found[file.path] = f"object altered: the difference of {file.path}"
    return found


def rebuild(store: Store, delta: Delta, path: str, base: Path, own: Path, target: Path) -> None:
    """Make one file again; the caller checks its digest.

    Args:
        store: Holds the difference.
        delta: Of the artefact.
        path: Of the file in the artefact.
        base: The base's verified directory.
        own: The artefact's other files, which may say how its weights are made.
        target: Where to write it.

    Raises:
        ArtefactAltered: The difference or the base is not what it was.
    """
    import pyarrow

    from tasks.artefacts.difference import Part, all_tensors, decode
    from tasks.artefacts.factors import FILE, read_factors

    kept = delta.paths[path]
    packed = target.with_name(f"{target.name}.difference")
    store.download(part_key(delta.digest, path), packed, kept.sha256)
    try:
        with packed.open("rb") as source, target.open("wb") as out:
            raw, size = kept.head
            head = pyarrow.Codec("zstd").decompress(source.read(size), decompressed_size=raw, asbytes=True)
            parts = [Part.model_validate(part) for part in kept.parts]
            decode(head, parts, all_tensors(base), read_factors(own / FILE), source, out)
    except (DataInvalid, KeyError, ValueError) as error:
        raise ArtefactAltered(
            f"{store.locate(part_key(delta.digest, path))}: altered, or its base {delta.base} is: {error}"
        ) from error
    finally:
        packed.unlink(missing_ok=True)


def delta_key(digest: str) -> str:
    """Key of what says that an artefact is kept as a difference."""
    return f"{PREFIX}{digest}/delta.json"


def part_key(digest: str, path: str) -> str:
    """Key of one file's difference."""
    return f"{PREFIX}{digest}/files/{path}"
