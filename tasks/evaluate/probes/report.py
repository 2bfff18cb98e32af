"""Put a probe's columns together into probe.json and its table of items.

    probe.json             {"schema": 1, "probe": name, "manifest": {what the columns depend on},
                            "models": {role: {digest, ref} | null},
                            "sets": [an entry as in report.json for every figure],
                            "changed": [an entry as in report.json], "notes": [text],
                            "samples": [what the probe wrote, where it writes]}
    items/<step>.parquet   a row per item, columns per model: what every figure follows from

The set of a probe is called after its step, so that a gate names `<step>.<figure>`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from tasks.evaluate.changed import probed_entries
from tasks.evaluate.items import arrow, plain_name
from tasks.evaluate.measure import Columns, Figure, asked, is_text
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.probes.models import Probing
from tasks.evaluate.probes.options import ProbeOptions
from tasks.evaluate.report import ROLES, difference_entry, model_entries, outcomes_of, value_entry, write_json
from tasks.evaluate.statistics.bootstrap import Drawn, Job, resample, size
from tasks.stage import Input, Result, StepContext

SCHEMA = 1


@dataclass(frozen=True)
class Found:
    """What a probe found.

    Attributes:
        probing: The probe, its version and options.
        keys: The items' names.
        columns: Role -> columns of the items under that model, all of one length.
        figures: What follows from the columns; the first is the step's main figure.
        notes: What a person should know when reading the figures.
        samples: What the probe wrote, for people.
    """

    probing: Probing
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
    sets = _entries(context, found, options)
    out = context.output("probe")
    write_json(
        out / "probe.json",
        {
            "schema": SCHEMA,
            "probe": found.probing.name,
            "manifest": found.probing.manifest(context),
            "models": model_entries(models),
            "sets": sets,
            "changed": probed_entries(
                context.step, found.probing.name, found.keys, found.columns, found.figures
            ),
            "notes": list(found.notes),
            "samples": list(found.samples),
        },
    )
    _write_items(context, found)
    metrics: dict[str, float] = {}
    for entry in sets:
        metrics[entry["measure"]] = entry["values"]["model"]["value"]
        for role in ROLES[1:]:
            if entry["against"][role] is not None:
                metrics[f"{entry['measure']}.against_{role}"] = entry["against"][role]["difference"]
    main = sets[0]
    context.progress(1.0)
    return Result(f"{main['measure'].replace('_', ' ')} {main['values']['model']['value']:.3g}", metrics)


def _entries(context: StepContext, found: Found, options: ProbeOptions | None) -> list[dict[str, Any]]:
    """An entry for every figure of which the model under judgement has a value."""
    jobs = {
        (figure.name, role): _job(figure, columns)
        for figure in found.figures
        for role, columns in found.columns.items()
    }
    drawn = dict(zip(jobs, _draw(list(jobs.values()), context, len(found.keys), options), strict=True))
    confidence = SuiteOptions(confidence=options.confidence) if options else SuiteOptions()
    entries = []
    for figure in found.figures:
        outcomes = {role: outcomes_of(figure, columns) for role, columns in found.columns.items()}
        if not math.isfinite(drawn[figure.name, "model"].value):
            continue
        share = figure.unit == "" and options is not None
        values: dict[str, Any] = dict.fromkeys(ROLES)
        against: dict[str, Any] = dict.fromkeys(ROLES[1:])
        for role, columns in found.columns.items():
            values[role] = value_entry(drawn[figure.name, role], outcomes[role], confidence, share=share)
            if role != "model":
                against[role] = difference_entry(
                    drawn[figure.name, "model"],
                    drawn[figure.name, role],
                    (outcomes["model"], outcomes[role]),
                    same=found.columns["model"] is columns,
                    options=confidence,
                    share=share,
                )
        entries.append(
            {
                "name": context.step,
                "measure": figure.name,
                "unit": figure.unit,
                "better": figure.better,
                "doc": figure.doc,
                "items": size(jobs[figure.name, "model"], len(found.keys)),
                "values": values,
                "against": against,
            }
        )
    return entries


def _job(figure: Figure, columns: Columns) -> Job:
    return Job(lambda weights_RN: figure.of(columns, weights_RN), asked=asked(figure, columns))


def _draw(jobs: Sequence[Job], context: StepContext, items: int, options: ProbeOptions | None) -> list[Drawn]:
    """The figures in resamples of the items; where these are no sample, twice the same: they do not vary."""
    if options is not None:
        return resample(jobs, items, name=context.step, seed=context.seed, resamples=options.resamples)
    once = numpy.ones((1, items))
    return [
        Drawn(float(job.of(once)[0]), numpy.repeat(job.of(once), 2), max(2, size(job, items))) for job in jobs
    ]


def _write_items(context: StepContext, found: Found) -> None:
    """A row per item; keys and numbers only, no text."""
    table: dict[str, Any] = {"key": list(found.keys)}
    for role, columns in found.columns.items():
        for name, values in columns.items():
            if not is_text(values):
                table[f"{role}.{name}"] = arrow(values)
    directory = context.output("probe") / "items"
    directory.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(table), directory / f"{plain_name(context.step)}.parquet")
