"""What changed between two models item by item: by key for everybody, with texts for the restricted report.

A set is looked at by its main figure, and by every column that its comparisons are about (of requests both
what should be refused and what should not).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from tasks.evaluate.items import plain_name
from tasks.evaluate.measure import Array, Better, Columns, Figure, Measure, Ratio, Share, is_text
from tasks.evaluate.report import ROLES, Measured

MOST_CHANGED = 20
"""Items of each direction that are named where every item changes a little: texts under bits per byte."""

BETWEEN = "\n----\n"
"""What separates the samples of one prompt."""

LONGEST_SHOWN = 2000
"""Characters of an item that are shown; the set itself has all of it."""


def changed_entries(measured: Measured) -> list[dict[str, Any]]:
    """What changed between the models, by key alone: the part of report.json that everybody may read.

    An entry for each model that the candidate is compared with and each figure that is looked at: `set`,
    `measure`, `figure`, the other `figures` that follow from the same items, `against`, how many items are
    worse and better (`counts`), and their keys (`worse`, `better`): all where an item is right or wrong, else
    the `MOST_CHANGED` that changed most, with the largest changes first.
    """
    keys = [row.key for row in measured.task.rows]
    return _entries(measured.name, measured.task.measure.name, keys, _changes(measured))


def probed_entries(
    step: str, probe: str, keys: Sequence[str], columns: Mapping[str, Columns], figures: Sequence[Figure]
) -> list[dict[str, Any]]:
    """The same of a probe's items, for every figure that is a mean over them.

    Args:
        step: The probe's step, which its set is called after.
        probe: Its name.
        keys: The items.
        columns: Role -> the columns of the items under that model.
        figures: The probe's.
    """
    found = [Look(each.name, (), each.better, each.of) for each in figures if isinstance(each.of, Ratio)]
    return _entries(step, probe, keys, _between(columns, found))


def _entries(
    name: str, measure: str, keys: Sequence[str], changes: Iterable[_Change]
) -> list[dict[str, Any]]:
    return [
        {
            "set": name,
            "measure": measure,
            "figure": each.look.figure,
            "figures": list(each.look.figures),
            "against": each.against,
            "counts": {"worse": each.worse_count, "better": each.better_count},
            "worse": [keys[place] for place in each.worse],
            "better": [keys[place] for place in each.better],
        }
        for each in changes
    ]


def write_changed(directory: Path, measured: Sequence[Measured]) -> None:
    """The changed items of a set with their text, for eyes that may see the set.

    A row an item, a figure and a model that it is compared with: `key`, `measure`, `figure`, `against`, the
    item's value then (`was`) and `now`, whether that is `worse`, what `Measure.shown` and `Measure.said`
    show, and what either model generated. No file where nothing changed.
    """
    found = [row for each in measured for change in _changes(each) for row in _rows(each, change)]
    if not found:
        return
    heads = list(dict.fromkeys(head for row in found for head in row))
    table = pyarrow.table({head: [row.get(head) for row in found] for head in heads})
    directory.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, directory / f"{plain_name(measured[0].name)}.parquet")


@dataclass(frozen=True)
class Look:
    """A number of each item: `of` its columns, called `figure`; `figures` follow from it."""

    figure: str
    figures: Sequence[str]
    better: Better
    of: Ratio

    def values(self, columns: Columns) -> Array:
        """The figure of every item alone."""
        tops_N = columns[self.of.top]
        bottoms_N = numpy.ones_like(tops_N) if self.of.bottom is None else columns[self.of.bottom]
        with numpy.errstate(divide="ignore", invalid="ignore"):
            values_N: Array = tops_N / bottoms_N * self.of.factor
        return values_N


@dataclass(frozen=True)
class _Change:
    """What changed against a model; `worse` and `better` are the places of the items that are named."""

    look: Look
    against: str
    was_N: Array
    now_N: Array
    worse: Sequence[int]
    better: Sequence[int]
    worse_count: int
    better_count: int


def looks(measure: Measure) -> list[Look]:
    """The main figure, where it is one of items, and what the comparisons are about."""
    about: dict[str, list[str]] = {}
    loose: list[str] = []
    for comparison in measure.comparisons:
        column = comparison.of.column if isinstance(comparison.of, Share) else ""
        (about.setdefault(column, []) if column else loose).append(comparison.name)
    ratios = [(each, each.of) for each in measure.figures if isinstance(each.of, Ratio)]
    found = []
    for figure, of in ratios:
        own = about.pop(of.top, [])
        if figure is measure.figures[0] or own:
            more = [*loose, *_follow(measure, of)] if figure is measure.figures[0] else []
            found.append(Look(figure.name, (*own, *more), figure.better, of))
    found += [Look(column, tuple(names), "higher", Ratio(column)) for column, names in about.items()]
    return found


def _rows(measured: Measured, change: _Change) -> Iterator[dict[str, Any]]:
    """The changed items with their texts."""
    for worse, places in ((True, change.worse), (False, change.better)):
        for place in places:
            shown = {**measured.task.measure.shown(measured.task.rows[place])}
            shown |= _said(measured, change.against, place)
            yield {
                "key": measured.task.rows[place].key,
                "measure": measured.task.measure.name,
                "figure": change.look.figure,
                "against": change.against,
                "was": float(change.was_N[place]),
                "now": float(change.now_N[place]),
                "worse": worse,
                **{head: _cut(text) for head, text in shown.items()},
            }


def _changes(measured: Measured) -> Iterator[_Change]:
    return _between(measured.columns, looks(measured.task.measure))


def _between(columns: Mapping[str, Columns], found: Sequence[Look]) -> Iterator[_Change]:
    candidate = columns["model"]
    for role in ROLES[1:]:
        if role not in columns or columns[role] is candidate:
            continue
        for look in found:
            if look.of.top not in candidate or candidate[look.of.top].ndim > 1:
                continue
            was_N, now_N = look.values(columns[role]), look.values(candidate)
            rise_N = now_N - was_N if look.better == "higher" else was_N - now_N
            order = numpy.argsort(rise_N, kind="stable").tolist()
            worse = [place for place in order if rise_N[place] < 0]
            better = [place for place in reversed(order) if rise_N[place] > 0]
            most = None if _all_or_nothing(was_N) and _all_or_nothing(now_N) else MOST_CHANGED
            yield _Change(look, role, was_N, now_N, worse[:most], better[:most], len(worse), len(better))


def _all_or_nothing(values_N: Array) -> bool:
    return bool(numpy.isin(values_N[numpy.isfinite(values_N)], (0.0, 1.0)).all())


def _follow(measure: Measure, of: Ratio) -> list[str]:
    """Figures of a measure that no items of their own are named for: they go with the main one."""
    compared = {each.of.column for each in measure.comparisons if isinstance(each.of, Share)}
    return [
        each.name
        for each in measure.figures[1:]
        if not (isinstance(each.of, Ratio) and (each.of.top in compared or each.of.top == of.top))
    ]


def _said(measured: Measured, role: str, place: int) -> dict[str, str]:
    """What both models chose or generated for an item, where the measure lets them speak."""
    found = {}
    for who, columns in (
        (f"the {role} said", measured.columns[role]),
        ("the candidate says", measured.columns["model"]),
    ):
        if measured.task.measure.said is not None:
            found[who] = measured.task.measure.said(measured.task.rows[place], columns, place)
        for name, values in columns.items():
            if is_text(values):
                spoken = values[place]
                found[who if name == "said" else f"{who} ({name})"] = (
                    spoken if isinstance(spoken, str) else BETWEEN.join(spoken)
                )
    return found


def _cut(text: str) -> str:
    if len(text) <= LONGEST_SHOWN:
        return text
    return f"{text[:LONGEST_SHOWN]} ... ({len(text):,} characters)"
