"""The items whose outcome is another than the other model's, read from the restricted tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet

OWN = ("key", "measure", "figure", "against", "was", "now")
"""Columns of a restricted table; the others are what the measure shows of an item."""


@dataclass(frozen=True)
class Changed:
    """An item that is right now and was wrong, or the reverse.

    Attributes:
        name: The set.
        key: Of the item.
        measure: By which measure.
        figure: Which of its figures.
        against: The model that it is compared with.
        was: The outcome there, 0 or 1.
        now: The candidate's.
        shown: Heading -> text, for the restricted page only.
    """

    name: str
    key: str
    measure: str
    figure: str
    against: str
    was: float
    now: float
    shown: Mapping[str, str] = field(default_factory=dict)

    @property
    def lost(self) -> bool:
        """It was right and is not."""
        return self.now < self.was

    @property
    def anchor(self) -> str:
        """Its place in the restricted page."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{self.name}-{self.measure}-{self.against}-{self.key}")


@dataclass
class Counted:
    """What changed of a set against a model."""

    name: str
    figure: str
    against: str
    lost: list[Changed] = field(default_factory=list)
    gained: list[Changed] = field(default_factory=list)


def counts(changed: Iterable[Changed]) -> list[Counted]:
    """The changed items by set, figure and model, in their order."""
    found: dict[tuple[str, str, str], Counted] = {}
    for each in changed:
        one = found.setdefault(
            (each.name, each.figure, each.against), Counted(each.name, each.figure, each.against)
        )
        (one.lost if each.lost else one.gained).append(each)
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
