"""A step that torchrun starts as several processes: the first one writes, the others only compute.

Every rank reads the plan and looks at the cache for itself, and finds the same. Only rank 0 commits, records,
logs and publishes checkpoints; of the others the store takes no write. One rank's failure makes the others
fail too, stopped by torchrun or cut off from it: what they say must not hide the first one's words.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.artefacts import Store
from tasks.artefacts.store import Stat
from tasks.recipe.failures import Failure
from tasks.runner.relief import last_failure

CUT_OFF = (
    "closed by peer",
    "reset by peer",
    "broken pipe",
    "connection refused",
    "timed out",
    "timeout",
    "ncclremoteerror",
    "ncclsystemerror",
)
"""Words of an error of torch.distributed that mean: another rank, or its machine, is gone."""


def rank() -> int:
    """This process among those of the step; 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes the step has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def outputs_folder() -> str:
    """The folder of a method's outputs in the scratch directory, which ranks may share: each has its own."""
    return "outputs" if rank() == 0 else f"outputs-{rank()}"


def is_done(error: BaseException) -> bool:
    """True where an error is only how the ranks after the first leave a training that has ended well."""
    return rank() > 0 and isinstance(error, SystemExit) and not error.code


def is_echo(failure: Failure) -> bool:
    """True where a failure may only follow another rank's: it was stopped, or lost the others."""
    return world_size() > 1 and failure is Failure.PREEMPTED


def is_told(store: Store, run: str, step: str, attempt: str) -> bool:
    """True once a rank of this attempt has said in the store why it failed."""
    words = last_failure(store, run, step)
    return bool(attempt) and words is not None and words.get("attempt") == attempt


def lost_another(error: BaseException) -> bool:
    """True where an error says that ranks which had found each other lost one."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    distributed = sys.modules.get("torch.distributed")
    text = str(error).lower()
    return (
        distributed is not None
        and distributed.is_initialized()
        and ("Dist" in type(error).__name__ or "gloo" in text or "nccl" in text)
        and any(words in text for words in CUT_OFF)
    )


class ReadOnly:
    """A store as the ranks after the first see it: what they write is rank 0's to write, and is dropped."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.uri = store.uri

    def read(self, key: str) -> bytes:
        """Pass on."""
        return self._store.read(key)

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write nothing, but for what every rank decides alike and reads back at once."""
        return self._store.write(key, data, if_absent=if_absent) if key.startswith("relief/") else True

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Write nothing."""

    def download(self, key: str, path: Path, sha256: str) -> None:
        """Pass on."""
        self._store.download(key, path, sha256)

    def stat(self, key: str) -> Stat | None:
        """Pass on."""
        return self._store.stat(key)

    def list(self, prefix: str) -> Iterator[Stat]:
        """Pass on."""
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        """Remove nothing."""

    def local_path(self, key: str) -> Path | None:
        """Pass on."""
        return self._store.local_path(key)

    def locate(self, key: str) -> str:
        """Pass on."""
        return self._store.locate(key)

    def unfinished(self) -> Iterator[Stat]:
        """Pass on."""
        return self._store.unfinished()

    def discard(self, key: str) -> None:
        """Remove nothing."""
