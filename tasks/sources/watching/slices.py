"""A corpus's slices: `corpus/<name>/slices/<date>.<number>.json` in the store, only ever added to.

A slice is what arrived under one date, as an artefact. A date whose files changed gets another number; the
highest is the one that counts, and the others stay on record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.artefacts import Store, fetch
from tasks.recipe.corpora import Which
from tasks.recipe.failures import DataInvalid, Infrastructure
from tasks.sources.splits import belongs

_KEY = re.compile(r"/(\d{4}-\d\d-\d\d)\.(\d+)\.json$")


class File(BaseModel):
    """A file of a slice: its name below the corpus's place, its bytes, and what changes when it does."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    size: int
    mark: str


class Slice(BaseModel):
    """What arrived under one date.

    Attributes:
        number: 1 for the first of the date; higher once its files changed.
        digest: Of the artefact with its rows.
        found: When, ISO 8601, UTC.
        found_by: The run that found it; "" by hand.
        uri: Where it was found.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    corpus: str
    date: str
    number: int
    digest: str
    kind: str
    rows: int
    characters: int
    bytes: int
    files: list[File]
    found: str
    found_by: str
    uri: str


def every(store: Store, name: str) -> list[Slice]:
    """Every slice that was ever registered, by date and number."""
    keys: list[tuple[str, int, str]] = []
    for stat in store.list(f"corpus/{name}/slices/"):
        if match := _KEY.search(stat.key):
            keys.append((match[1], int(match[2]), stat.key))
    return [Slice.model_validate_json(store.read(key)) for *_, key in sorted(keys)]


def current(store: Store, name: str) -> list[Slice]:
    """The slice that counts of each date, oldest first."""
    return list({each.date: each for each in every(store, name)}.values())


def add(store: Store, new: Slice) -> None:
    """Register a slice.

    Raises:
        Infrastructure: Another process has registered one of that number meanwhile.
    """
    key = f"corpus/{new.corpus}/slices/{new.date}.{new.number}.json"
    data = json.dumps(new.model_dump(), sort_keys=True, indent=1).encode()
    if not store.write(key, data, if_absent=True):
        raise Infrastructure(f"{store.locate(key)} was registered by somebody else meanwhile; look again")


def give(store: Store, name: str, run: str, now: datetime) -> list[Slice]:
    """The slices that no other run was given; `corpus/<name>/looks/<run>.json` notes that this one was."""
    taken: set[str] = set()
    own = f"corpus/{name}/looks/{run}.json"
    for stat in store.list(f"corpus/{name}/looks/"):
        if stat.key != own:
            taken |= set(json.loads(store.read(stat.key))["slices"])
    new = [each for each in every(store, name) if f"{each.date}.{each.number}" not in taken]
    if new:
        words = {"slices": [f"{each.date}.{each.number}" for each in new], "time": now.isoformat()}
        store.write(own, json.dumps(words, indent=1).encode())
    return new


def given(store: Store, name: str, run: str) -> list[Slice]:
    """What a run's look was given, oldest first, without what was replaced since."""
    key = f"corpus/{name}/looks/{run}.json"
    noted = set(json.loads(store.read(key))["slices"]) if store.stat(key) is not None else set()
    return [each for each in current(store, name) if f"{each.date}.{each.number}" in noted]


def chosen(store: Store, which: Which) -> list[Slice]:
    """The slices that a URI means now, oldest first.

    Raises:
        DataInvalid: There is none; says which there are.
    """
    have = current(store, which.name)
    if which.date == "latest":
        found = have[-1:]
    elif which.date is None:
        found = have
    elif which.until:
        found = [each for each in have if each.date <= which.date]
    else:
        found = [each for each in have if each.date == which.date]
    if not found:
        dates = ", ".join(each.date for each in have) or "none yet: run `perennial corpus look`"
        raise DataInvalid(f"corpus '{which.name}' has no such slice; its dates are {dates}")
    return found


def rows(store: Store, slices: list[Slice], split: str, cache: Path) -> Iterator[dict[str, Any]]:
    """The rows of slices; a row that comes again under its key takes the place of the older one.

    Args:
        store: Where they are.
        slices: Oldest first.
        split: all, train or heldout.
        cache: For artefacts of a remote store.
    """
    last: dict[str, int] = {}
    for number, each in enumerate(slices):
        for row in read(store, each.digest, cache):
            last[row["key"]] = number
    for number, each in enumerate(slices):
        for row in read(store, each.digest, cache):
            if last[row["key"]] == number and belongs(row["key"], split):
                yield row


def read(store: Store, digest: str, cache: Path) -> Iterator[dict[str, Any]]:
    """The rows of one data set of the store."""
    with (fetch(store, digest, cache) / "rows.jsonl").open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
