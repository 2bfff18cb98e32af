"""The tables of items, in parquet: what every figure was computed from, and what changed between models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from tasks.evaluate.measure import Array, Columns, Ratio, is_text, texts
from tasks.evaluate.report import ROLES, Measured, outcomes_of

BETWEEN = "\n----\n"
"""What separates the samples of one prompt in a restricted table."""


def plain_name(name: str) -> str:
    """A set's name for file and metric names: a set given by address keeps letters, digits, `_`, `.`, `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def write_items(directory: Path, measured: Sequence[Measured]) -> None:
    """One parquet file for all measures of a set: a row per item, columns per model; keys only, no text.

    Raises:
        ValueError: If two measures of a port give columns of one name; that is a mistake in their table.
    """
    rows = measured[0].task.rows
    table: dict[str, Any] = {"key": [row.key for row in rows]}
    if any(row.group for row in rows):
        table["group"] = [row.group for row in rows]
    for each in measured:
        for role, columns in each.columns.items():
            for name, values in columns.items():
                if is_text(values):
                    continue
                if f"{role}.{name}" in table:
                    raise ValueError(f"port '{each.task.port}': two measures have a column '{name}'")
                table[f"{role}.{name}"] = arrow(values)
    directory.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(table), directory / f"{plain_name(measured[0].name)}.parquet")


def write_said(directory: Path, measured: Sequence[Measured]) -> None:
    """What each model said to every item of a set, `<role>.<column>`; no file where none spoke.

    Only for eyes that may see the set.
    """
    table: dict[str, Any] = {
        f"{role}.{name}": arrow(values)
        for each in measured
        for role, columns in each.columns.items()
        for name, values in columns.items()
        if is_text(values)
    }
    if not table:
        return
    directory.mkdir(parents=True, exist_ok=True)
    keys = {"key": [row.key for row in measured[0].task.rows]}
    pyarrow.parquet.write_table(
        pyarrow.table(keys | table), directory / f"{plain_name(measured[0].name)}.parquet"
    )


def write_changed(directory: Path, measured: Sequence[Measured]) -> None:
    """The items of a set whose outcome is not the champion's or the baseline's, with their text.

    A row an item, a measure and a model that it is compared with: `key`, `measure`, `figure`, `against`, the
    outcome then (`was`) and `now`, what `Measure.shown` shows, and what each of the two said, where the
    measure let them speak. No file where nothing changed. Only for eyes that may see the set.
    """
    found = [row for each in measured for row in _changed(each)]
    if not found:
        return
    heads = list(dict.fromkeys(head for row in found for head in row))
    table = pyarrow.table({head: [row.get(head) for row in found] for head in heads})
    directory.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, directory / f"{plain_name(measured[0].name)}.parquet")


def _changed(measured: Measured) -> list[dict[str, Any]]:
    """Of the first figure that an item is right or wrong by; none where the measure has no such figure."""
    measure, candidate = measured.task.measure, measured.columns["model"]
    found = []
    for role in ROLES[1:]:
        if role not in measured.columns or measured.columns[role] is candidate:
            continue
        other = measured.columns[role]
        open_N = numpy.ones(len(measured.task.rows), dtype=bool)
        for figure in measure.figures:
            if not isinstance(figure.of, Ratio) or figure.of.top not in candidate:
                continue
            now_N, was_N = outcomes_of(figure, candidate), outcomes_of(figure, other)
            if now_N is None or was_N is None:
                continue
            judged_N = open_N & numpy.isfinite(now_N + was_N)
            open_N &= ~judged_N
            for place in numpy.flatnonzero(judged_N & (now_N != was_N)).tolist():
                row = measured.task.rows[place]
                found.append(
                    {
                        "key": row.key,
                        "measure": measure.name,
                        "figure": figure.name,
                        "against": role,
                        "was": float(was_N[place]),
                        "now": float(now_N[place]),
                        **measure.shown(row),
                        **_spoken("before", other, place),
                        **_spoken("now", candidate, place),
                    }
                )
    return found


def _spoken(when: str, columns: Columns, place: int) -> dict[str, str]:
    """What a model said to an item; several samples one below the other."""
    found = {name: values[place] for name, values in columns.items() if is_text(values)}
    return {
        f"{name}_{when}": said if isinstance(said, str) else BETWEEN.join(said)
        for name, said in found.items()
    }


def write_columns(path: Path, columns: Columns, facts: Mapping[str, Any]) -> None:
    """A model's columns on one set, and how the model was run, to be used again."""
    table = pyarrow.table({name: arrow(values) for name, values in columns.items()})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"facts": json.dumps(facts)}), path)


def read_columns(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """What `write_columns` wrote."""
    table = pyarrow.parquet.read_table(path)
    columns = {
        name: texts(held) if _holds_text(held) else numpy.array(held, dtype=numpy.float64)
        for name in table.column_names
        for held in [table[name].to_pylist()]
    }
    return columns, json.loads(table.schema.metadata[b"facts"])


def arrow(values: Array) -> Any:
    """A column as Arrow has it: a number, a text, or a list of them per item; NaN stays NaN."""
    if is_text(values):
        return pyarrow.array(values.tolist())
    return pyarrow.array(values if values.ndim == 1 else list(values))


def _holds_text(held: Sequence[Any]) -> bool:
    first = held[0] if held else 0.0
    return isinstance(first[0] if isinstance(first, list) and first else first, str)
