"""Put a probe's columns together into probe.json and its table of items.

    probe.json             {"schema": 1, "probe": name, "models": {role: {digest, ref} | null},
                            "sets": [an entry as in report.json for every figure], "notes": [text],
                            "samples": [what the probe wrote, where it writes]}
    items/<step>.parquet   a row per item, columns per model: what every figure follows from

The set of a probe is called after its step, so that a gate names `<step>.<figure>`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from tasks.evaluate.measure import Array, Columns, Estimate, Figure
from tasks.evaluate.probes.options import ProbeOptions
from tasks.evaluate.report import ROLES, model_entries, plain_name, write_json
from tasks.stage import Input, Result, StepContext

SCHEMA = 1
CHUNK = 4_000_000
"""Numbers in one block of resampled counts (32 MB)."""


@dataclass(frozen=True)
class Found:
    """What a probe found.

    Attributes:
        probe: Its name.
        keys: The items' names.
        columns: Role -> columns of the items under that model, all of one length.
        figures: What follows from the columns; the first is the step's main figure.
        notes: What a person should know when reading the figures.
        samples: What the probe wrote, for people.
    """

    probe: str
    keys: Sequence[str]
    columns: Mapping[str, Columns]
    figures: Sequence[Figure]
    notes: Sequence[str] = ()
    samples: Sequence[Mapping[str, Any]] = field(default_factory=list)


def write_probe(
    context: StepContext, models: Mapping[str, Input], found: Found, options: ProbeOptions | None
) -> Result:
    """Write the output `probe` and say its main figure.

    Args:
        context: The step's context.
        models: The models by role.
        found: What was found.
        options: Resamples and confidence; None where the items are all there are (the matrices of a model),
            no sample of more: the ends of an interval are then the figure itself.
    """
    sets = [entry for each in found.figures if (entry := _entry(each, found, context, options)) is not None]
    out = context.output("probe")
    write_json(
        out / "probe.json",
        {
            "schema": SCHEMA,
            "probe": found.probe,
            "models": model_entries(models),
            "sets": sets,
            "notes": list(found.notes),
            "samples": list(found.samples),
        },
    )
    _write_items(context, found)
    metrics: dict[str, float] = {}
    for entry in sets:
        if entry["values"]["model"] is not None:
            metrics[entry["measure"]] = entry["values"]["model"]["value"]
        for role in ROLES[1:]:
            if entry["against"][role] is not None:
                metrics[f"{entry['measure']}.against_{role}"] = entry["against"][role]["difference"]
    main = sets[0]
    context.progress(1.0)
    return Result(f"{main['measure'].replace('_', ' ')} {main['values']['model']['value']:.3g}", metrics)


def _entry(
    figure: Figure, found: Found, context: StepContext, options: ProbeOptions | None
) -> dict[str, Any] | None:
    """The figure's entry; None where the model under judgement has no value."""
    name, count = context.step, len(found.keys)
    once = numpy.ones((1, count))
    points = {role: float(figure.of(columns, once)[0]) for role, columns in found.columns.items()}
    if not math.isfinite(points.get("model", math.nan)):
        return None
    points = {role: value for role, value in points.items() if math.isfinite(value)}
    drawn = {
        role: numpy.full(1, points[role])
        if options is None
        else resampled(figure.of, found.columns[role], name, context.seed, options.resamples)
        for role in points
    }
    confidence = options.confidence if options else 0.95
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]

    def interval(values_R: Array) -> tuple[float, float]:
        low, high = numpy.nanquantile(values_R, tails)
        return float(low), float(high)

    values: dict[str, Any] = dict.fromkeys(ROLES)
    against: dict[str, Any] = dict.fromkeys(ROLES[1:])
    for role, point in points.items():
        low, high = interval(drawn[role])
        values[role] = {"value": point, "low": low, "high": high}
        if role != "model":
            low, high = interval(drawn["model"] - drawn[role])
            against[role] = {
                "difference": points["model"] - point,
                "low": low,
                "high": high,
                "relative": None,
                "relative_low": None,
                "relative_high": None,
            }
    return {
        "name": name,
        "measure": figure.name,
        "unit": figure.unit,
        "better": figure.better,
        "items": count,
        "values": values,
        "against": against,
    }


def resampled(of: Estimate, columns: Columns, name: str, seed: int, resamples: int) -> Array:
    """The figure in every resample of the items; the same draws for every model and figure of one name."""
    items = len(next(iter(columns.values())))
    salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = numpy.random.default_rng([seed, salt])
    block = max(1, CHUNK // items)
    parts = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        weights = generator.multinomial(items, numpy.full(items, 1 / items), size=count)
        parts.append(of(columns, weights.astype(numpy.float64)))
    return numpy.concatenate(parts)


def _write_items(context: StepContext, found: Found) -> None:
    """A row per item; keys and numbers only, no text."""
    table: dict[str, Any] = {"key": list(found.keys)}
    for role, columns in found.columns.items():
        for name, values in columns.items():
            table[f"{role}.{name}"] = values.tolist()
    directory = context.output("probe") / "items"
    directory.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(table), directory / f"{plain_name(context.step)}.parquet")
