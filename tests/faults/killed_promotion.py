"""Decisions in processes of their own, forked from one that has the imports: killed at a write, or at once.

A write is an object of the store, or a statement that changes MLflow's database.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy.event

from tasks.artefacts.local import LocalStore
from tasks.recipe.failures import PerennialError
from tasks.runner.release import decide
from tasks.runner.settings import settings

KILLED = 137
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload([__name__])

for name in (
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "sqlalchemy.dialects.postgresql.psycopg2",
):  # once, and not again in every process
    importlib.import_module(name)

OnWrite = Callable[[str], None]


def on_every_write(told: OnWrite) -> None:
    """Have `told` called with the name of every write, just before it is made."""
    write = LocalStore.write

    def store_write(self: LocalStore, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        told(f"store {key}")
        return write(self, key, data, if_absent=if_absent)

    LocalStore.write = store_write  # type: ignore[method-assign]

    def before(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        words = statement.split()
        if words[0] in ("INSERT", "UPDATE", "DELETE"):
            table = words[1] if words[0] == "UPDATE" else words[2]
            told(f"{words[0].lower()} {table}")

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", before)


def killed(env: Mapping[str, str], after: int, writes: Any, arguments: Mapping[str, Any]) -> None:
    """Decide, and die when `after` writes are made; the names of all writes go to the queue `writes`."""
    os.environ.update(env)
    made = 0

    def told(name: str) -> None:
        nonlocal made
        if made == after:
            os._exit(KILLED)
        made += 1
        writes.put(name)

    on_every_write(told)
    decide("promote", settings(), plan=None, **arguments)


def raced(env: Mapping[str, str], together: Any, said: Any, arguments: Mapping[str, Any]) -> None:
    """Decide, meeting the other process just before the first line is written to the ledger."""
    os.environ.update(env)
    met = False

    def told(name: str) -> None:
        nonlocal met
        if name.startswith("store ledger/") and not met:
            met = True
            together.wait(60)

    on_every_write(told)
    try:
        words = decide("promote", settings(), plan=None, **arguments).words
        said.put((arguments["version"], 0, words))
    except PerennialError as error:
        said.put((arguments["version"], int(error.failure), str(error)))
