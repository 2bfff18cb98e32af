"""The items that changed, read from the restricted tables, and the places where the pages show them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet

OWN = ("key", "measure", "figure", "against", "was", "now", "worse")
"""Columns of a restricted table; the others are what the measure shows of an item."""


@dataclass(frozen=True)
class Changed:
    """An item that is right now and was wrong, or the reverse; or whose figure is another.

    Attributes:
        name: The set.
        key: Of the item.
        measure: By which measure.
        figure: Which of its figures.
        against: The model that it is compared with.
        was: The item's figure there; 0 or 1 where it is right or wrong.
        now: The candidate's.
        worse: That is a change for the worse.
        shown: Heading -> text, for the restricted page only.
    """

    name: str
    key: str
    measure: str
    figure: str
    against: str
    was: float
    now: float
    worse: bool
    shown: Mapping[str, str] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """Its place in the restricted page."""
        return anchor(self.name, self.measure, self.figure, self.against, self.key)

    @property
    def flipped(self) -> bool:
        """It is right or wrong, and was the other."""
        return {self.was, self.now} == {0.0, 1.0}


def anchor(*words: str) -> str:
    """A place in a page, named by what stands there."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(words))


@dataclass
class Counted:
    """What changed of a set against a model."""

    name: str
    figure: str
    against: str
    worse: list[Changed] = field(default_factory=list)
    better: list[Changed] = field(default_factory=list)


def counts(changed: Iterable[Changed]) -> list[Counted]:
    """The changed items by set, figure and model, in their order."""
    found: dict[tuple[str, str, str], Counted] = {}
    for each in changed:
        one = found.setdefault(
            (each.name, each.figure, each.against), Counted(each.name, each.figure, each.against)
        )
        (one.worse if each.worse else one.better).append(each)
    return list(found.values())


def read_changed(folder: Path, names: Iterable[str]) -> list[Changed]:
    """The tables that tasks/evaluate/items.py wrote, `<set>.parquet`, of the sets in the report's order."""
    files = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    found = []
    for name in names:
        path = files.get(re.sub(r"[^A-Za-z0-9_.-]+", "_", name))
        if path is None:
            continue
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        for row in rows:
            shown = {head: str(text) for head, text in row.items() if head not in OWN and text is not None}
            own = {head: row[head] for head in OWN}
            found.append(Changed(name=name, shown=shown, **own))
    return found
