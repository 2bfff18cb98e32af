"""Results that are kept beside the artefacts, so that no step computes them twice.

    evaluations/<digest of a model>/<digest of all else>/<sha256 of the file>

A file is named by its own digest, so it is verified by what it is called. Losing one costs the time to
compute it again and nothing else; garbage collection keeps those of the models that it keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tasks.artefacts.files import sha256_of
from tasks.artefacts.store import ArtefactAltered, ObjectMissing, Store

PREFIX = "evaluations/"
KEY = re.compile(r"[0-9a-f]{64}/[0-9a-f]{64}")


def recall(
    store: Store, key: str, cache: Path, say: Callable[[str], None] = lambda line: None
) -> Path | None:
    """A verified file that was kept under a key, only to be read, or None.

    Args:
        store: Where it is kept.
        key: `<digest of a model>/<digest of all else that the result depends on>`.
        cache: Where copies from a remote store go; a local store hands out its own file.
        say: Told what is wrong with a file that is there and cannot be used.
    """
    prefix = _prefix(key)
    for stat in list(store.list(prefix)):
        expected = stat.key.removeprefix(prefix)
        try:
            return _verified(store, stat.key, expected, cache)
        except (ArtefactAltered, ObjectMissing) as error:
            say(f"a kept result cannot be used and is computed again: {error}")
    return None


def remember(store: Store, key: str, path: Path) -> None:
    """Keep a file under a key; one with the same content replaces itself, others stay beside it."""
    digest = sha256_of(path)
    store.upload(f"{_prefix(key)}{digest}", path, digest)


def _verified(store: Store, key: str, expected: str, cache: Path) -> Path:
    stored = store.local_path(key)
    if stored is not None:
        found = sha256_of(stored)
        if found != expected:
            raise ArtefactAltered(f"{stored}: altered: expected sha256 {expected}, found {found}")
        return stored
    copy = cache / expected
    if not copy.is_file() or sha256_of(copy) != expected:
        cache.mkdir(parents=True, exist_ok=True)
        store.download(key, copy, expected)
    return copy


def _prefix(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"'{key}' is not the digest of a model, a slash, and the digest of all else")
    return f"{PREFIX}{key}/"
