"""What every store backend does, and the failures it raises.

A store is a flat namespace of objects under "/"-separated keys. It knows nothing about artefacts: those are
functions over this interface (artefact.py), so both backends give the same digests and the same guarantees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tasks.recipe.failures import Infrastructure


class ObjectMissing(Infrastructure):
    """An object that should be in the store is not."""


class ArtefactAltered(Infrastructure):
    """Bytes in the store, or in a local copy of it, do not match their recorded digest."""


@dataclass(frozen=True)
class Stat:
    """What a store knows about an object without reading it.

    Attributes:
        key: The object's key.
        size: Bytes.
        sha256: Hex digest as the backend stored or computed it at upload; None where it keeps none (a local
            directory, an object that another tool put into the bucket, every listing).
        modified: When it was last written, UTC.
    """

    key: str
    size: int
    sha256: str | None
    modified: datetime


class Store(Protocol):
    """The operations of a backend. Every failure of the backend is raised as Infrastructure."""

    uri: str

    def read(self, key: str) -> bytes:
        """The whole object; raises ObjectMissing if it is absent."""

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write a small object atomically; False, and nothing written, when `if_absent` and it exists."""

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Store a file whose digest is `sha256`; raises Infrastructure if it changed since it was hashed."""

    def download(self, key: str, path: Path, sha256: str) -> None:
        """Copy an object to `path`; raises ArtefactAltered, and leaves nothing, if it is not `sha256`."""

    def stat(self, key: str) -> Stat | None:
        """Size and stored digest of an object, or None if it is absent."""

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object whose key starts with `prefix` (text, not folders), ordered by key."""

    def delete(self, key: str) -> None:
        """Remove an object; no error if it is absent."""

    def local_path(self, key: str) -> Path | None:
        """Where a local store keeps the key, whether it exists or not; None on S3."""

    def locate(self, key: str) -> str:
        """The full URI of a key."""

    def unfinished(self) -> Iterator[Stat]:
        """Writes that were begun and never completed (a killed writer's); no reader sees them."""

    def discard(self, key: str) -> None:
        """Remove one unfinished write by the key that `unfinished` gave."""
