"""Two models compared after the fact, from the items that their reports keep; no model is run.

A measure on a set is compared where both models were scored on the same manifest (docs/decisions/0011): equal
items, version and settings of the measure, window, seed and libraries. The figures, intervals and flips
are those of a report (tasks/evaluate/report.py), with the second model in the candidate's place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
from pydantic import ValidationError

from tasks.evaluate.items import plain_name
from tasks.evaluate.manifest import Task, digest
from tasks.evaluate.measure import Array, Columns, Measure
from tasks.evaluate.measures import PORTS
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.report import ROLES, Measured, entries
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input

Where = tuple[str, str]
"""A set and a measure, by name."""


@dataclass(frozen=True)
class Row:
    """An item, as far as a report's table keeps it."""

    key: str
    group: str = ""


@dataclass(frozen=True)
class Scored:
    """A model's columns on a set by a measure.

    Attributes:
        manifest: Everything that they depend on beside the model.
        options: The options of the report step that the figures depend on.
        seed: Of the report step.
    """

    measure: Measure
    set: Input
    port: str
    rows: Sequence[Row]
    columns: Columns
    manifest: Mapping[str, Any]
    options: SuiteOptions
    seed: int


@dataclass(frozen=True)
class Compared:
    """What came of a comparison.

    Attributes:
        entries: As in report.json: `model` is the second model, `champion` the first.
        left_out: Set, measure, and why the two were not compared on it.
    """

    entries: list[dict[str, Any]]
    left_out: list[tuple[str, str, str]]


def compare(reports: Sequence[Path], first: str, second: str) -> Compared:
    """Compare two models on all that both were scored on.

    Args:
        reports: Folders of report artefacts in which either has a role.
        first: Digest of the model that is compared with.
        second: Digest of the model that it is about.

    Raises:
        DataInvalid: A report cannot be read.
    """
    held: dict[str, dict[Where, list[Scored]]] = {first: {}, second: {}}
    for folder in reports:
        for model, where, scored in _scored(folder):
            if model in held:
                held[model].setdefault(where, []).append(scored)
    found = Compared([], [])
    for where in dict.fromkeys([*held[second], *held[first]]):
        mine, other = held[second].get(where, []), held[first].get(where, [])
        pair = next(((a, b) for a in mine for b in other if _same(a, b)), None)
        if pair is None:
            found.left_out.append((*where, _why(mine, other)))
            continue
        own, its = pair
        task = Task(own.port, own.measure, own.set, own.rows)
        columns = {"model": own.columns, "champion": own.columns if first == second else its.columns}
        found.entries.extend(entries(Measured(task, columns), own.options, own.seed))
    return found


def _scored(folder: Path) -> Iterator[tuple[str, Where, Scored]]:
    """Every model's columns in a report: its digest, where, and what."""
    try:
        report = json.loads((folder / "report.json").read_bytes())
        manifest, models = report["manifest"], report["models"]
        shown = manifest["bootstrap"]
        options = SuiteOptions.model_validate(
            {
                **manifest["settings"],
                "max_length": manifest["window"]["max_length"],
                "resamples": shown["resamples"],
                "confidence": shown["confidence"],
            }
        )
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataInvalid(f"{folder / 'report.json'}: not a report with its manifest: {error!r}") from error
    for name, held in manifest["sets"].items():
        path = folder / "items" / f"{plain_name(name)}.parquet"
        if not path.is_file():
            continue
        table = pyarrow.parquet.read_table(path)
        groups = table["group"].to_pylist() if "group" in table.column_names else [""] * len(table)
        rows = [Row(key, group) for key, group in zip(table["key"].to_pylist(), groups, strict=True)]
        for measure in PORTS.get(held["port"], ()):
            frozen = held["measures"].get(measure.name)
            if not isinstance(frozen, dict) or frozen["version"] != measure.version:
                continue  # other columns than today's figures are computed from
            about = _manifest(manifest, held, measure)
            item = Input(ref=name, digest=held["digest"], kind=held["port"], path=path)
            for role in ROLES:
                if models.get(role) is None:
                    continue
                columns = _columns(table, role)
                yield (
                    models[role]["digest"],
                    (name, measure.name),
                    Scored(measure, item, held["port"], rows, columns, about, options, shown["seed"]),
                )


def _manifest(manifest: Mapping[str, Any], held: Mapping[str, Any], measure: Measure) -> dict[str, Any]:
    """What a measure's columns on a set depend on, from a report's manifest; as `manifest.of_task`."""
    return {
        "scoring": manifest["version"],
        "items": held["items_digest"],
        "measure": held["measures"][measure.name],
        "settings": {name: manifest["settings"][name] for name in measure.settings},
        "window": manifest["window"]["max_length"],
        "seed": manifest["bootstrap"]["seed"],
        **{name: manifest[name] for name in ("prefix", "dtype", "device", "batch_policy", "libraries")},
    }


def _columns(table: pyarrow.Table, role: str) -> dict[str, Array]:
    start = f"{role}."
    return {
        name.removeprefix(start): numpy.array(table[name].to_pylist(), dtype=numpy.float64)
        for name in table.column_names
        if name.startswith(start)
    }


def _same(a: Scored, b: Scored) -> bool:
    return digest(a.manifest) == digest(b.manifest) and a.rows == b.rows


def _why(mine: Sequence[Scored], other: Sequence[Scored]) -> str:
    """Why two models were not compared."""
    if not mine or not other:
        return f"only the {'second' if mine else 'first'} was scored on it"
    a, b = other[0].manifest, mine[0].manifest
    differ = [name for name in a if a[name] != b[name]]
    words = ", ".join(f"{name} {_short(a[name])} -> {_short(b[name])}" for name in differ)
    return f"scored on another manifest: {words or 'other items'}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else f"{text[:37]}..."
