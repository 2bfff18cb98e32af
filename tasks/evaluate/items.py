"""The tables of items, in parquet: what every figure was computed from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from tasks.evaluate.measure import Array, Columns, is_text, texts
from tasks.evaluate.report import Measured


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
