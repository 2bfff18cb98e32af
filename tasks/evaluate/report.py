"""Put columns together into the entries of report.json.

Every figure, interval and comparison follows from the columns of tasks/evaluate/measure.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from tasks.evaluate.manifest import Task
from tasks.evaluate.measure import Array, Columns, Comparison, Figure, Ratio, Share
from tasks.evaluate.measures import GAP
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.statistics import tests
from tasks.evaluate.statistics.bootstrap import QUANTILES, Drawn, Job, combine, resample
from tasks.evaluate.statistics.power import detectable
from tasks.stage import Input

SCHEMA = 2
ROLES = ("model", "baseline", "champion")
"""The models of a report; the first is the one that the report is about."""


@dataclass(frozen=True)
class Measured:
    """A measure on a set, for every model that is there.

    Attributes:
        task: The measure and the set.
        columns: Role -> the columns under that model; models with one digest share them.
    """

    task: Task
    columns: Mapping[str, Columns]

    @property
    def name(self) -> str:
        """The set's name."""
        return self.task.item.name


@dataclass
class _Pool:
    """The figures of one set that are resampled together, by what they are called here."""

    jobs: dict[tuple[str, ...], Job] = field(default_factory=dict)
    drawn: dict[tuple[str, ...], Drawn] = field(default_factory=dict)

    def draw(self, items: int, name: str, seed: int, resamples: int) -> None:
        found = resample(list(self.jobs.values()), items, name=name, seed=seed, resamples=resamples)
        self.drawn = dict(zip(self.jobs, found, strict=True))


def entries(measured: Measured, options: SuiteOptions, seed: int) -> list[dict[str, Any]]:
    """The entries of report.json: one a figure, one a comparison, one a gap where the set has groups."""
    measure, columns = measured.task.measure, measured.columns
    figures = [figure for figure in measure.figures if figure.applies(options)]
    groups = groups_of([row.group for row in measured.task.rows])
    pool = _Pool()
    for figure in figures:
        for role, held in columns.items():
            pool.jobs[figure.name, role] = Job(_of(figure, held))
            for group, rows in groups.items():
                pool.jobs[figure.name, role, group] = Job(_of(figure, held, rows), rows)
    for comparison in measure.comparisons:
        for role in ROLES[1:]:
            if role in columns:
                pool.jobs[comparison.name, role] = Job(_against(comparison, columns["model"], columns[role]))
    pool.draw(len(measured.task.rows), measured.name, seed, options.resamples)
    found = []
    for figure in figures:
        found.append(_figure_entry(measured, figure, groups, pool, options))
        if len(groups) > 1:
            found.append(_gap_entry(measured, figure, groups, pool, options))
    found += [_comparison_entry(measured, each, pool, options) for each in measure.comparisons]
    return found


def groups_of(names: Sequence[str]) -> dict[str, Array]:
    """The rows of each group by index, by name; rows without a group are in none."""
    return {
        name: numpy.array([place for place, each in enumerate(names) if each == name])
        for name in sorted({name for name in names if name})
    }


def _of(figure: Figure, columns: Columns, rows: Array | None = None) -> Callable[[Array], Array]:
    held = columns if rows is None else {name: values[rows] for name, values in columns.items()}
    return lambda weights_RN: figure.of(held, weights_RN)


def _against(comparison: Comparison, columns: Columns, other: Columns) -> Callable[[Array], Array]:
    return lambda weights_RN: comparison.of(columns, other, weights_RN)


def _figure_entry(
    measured: Measured, figure: Figure, groups: Mapping[str, Array], pool: _Pool, options: SuiteOptions
) -> dict[str, Any]:
    outcomes = {role: outcomes_of(figure, columns) for role, columns in measured.columns.items()}
    entry = _entry(measured, figure.name, figure.unit, figure.better, figure.doc)
    entry["values"] = {
        role: value_entry(pool.drawn[figure.name, role], outcomes[role], options)
        if role in outcomes
        else None
        for role in ROLES
    }
    entry["against"] = {
        role: difference_entry(
            pool.drawn[figure.name, "model"],
            pool.drawn[figure.name, role],
            (outcomes["model"], outcomes[role]),
            same=measured.columns["model"] is measured.columns[role],
            options=options,
        )
        if role in outcomes
        else None
        for role in ROLES[1:]
    }
    if groups:
        entry["groups"] = {
            group: {
                "items": len(rows),
                "values": {
                    role: value_entry(pool.drawn[figure.name, role, group], None, options)
                    if role in outcomes
                    else None
                    for role in ROLES
                },
            }
            for group, rows in groups.items()
        }
    return entry


def _gap_entry(
    measured: Measured, figure: Figure, groups: Mapping[str, Array], pool: _Pool, options: SuiteOptions
) -> dict[str, Any]:
    """The largest difference between two groups; M-MD3 (Srirag et al. 2024) bounds it before a promotion."""
    gaps = {
        role: _gap([pool.drawn[figure.name, role, group] for group in groups]) for role in measured.columns
    }
    words = f"largest difference between groups: {figure.doc}"
    entry = _entry(measured, f"{figure.name}{GAP}", figure.unit, "lower", words)
    entry["values"] = {
        role: value_entry(gaps[role], None, options) if role in gaps else None for role in ROLES
    }
    entry["against"] = {
        role: difference_entry(
            gaps["model"],
            gaps[role],
            (None, None),
            same=measured.columns["model"] is measured.columns[role],
            options=options,
        )
        if role in gaps
        else None
        for role in ROLES[1:]
    }
    return entry


def _gap(drawn: Sequence[Drawn]) -> Drawn:
    values = numpy.array([each.value for each in drawn])
    draws_GR = numpy.stack([each.draws_R for each in drawn])
    items = sum(each.items for each in drawn)
    return Drawn(float(numpy.ptp(values)), numpy.ptp(draws_GR, axis=0), items)


def _comparison_entry(
    measured: Measured, comparison: Comparison, pool: _Pool, options: SuiteOptions
) -> dict[str, Any]:
    entry = _entry(measured, comparison.name, comparison.unit, comparison.better, comparison.doc)
    entry["values"] = dict.fromkeys(ROLES)
    against: dict[str, Any] = {}
    for role in ROLES[1:]:
        drawn = pool.drawn.get((comparison.name, role))
        if drawn is None or not math.isfinite(drawn.value):
            against[role] = None
            continue
        candidate, other = measured.columns["model"], measured.columns[role]
        outcomes = comparison.of.outcomes(candidate, other) if isinstance(comparison.of, Share) else None
        same = candidate is other
        value = value_entry(drawn, None if same else outcomes, options)
        assert value is not None
        against[role] = {
            "difference": drawn.value,
            "low": value["low"],
            "high": value["high"],
            **dict.fromkeys(("relative", "relative_low", "relative_high")),
            "error": value["error"],
            "quantiles": value["quantiles"],
            "relative_quantiles": None,
            "p_value": None,
            "detectable": None if same else detectable(value["error"], drawn.items, options.confidence),
        }
    entry["against"] = against
    return entry


def _entry(measured: Measured, figure: str, unit: str, better: str, doc: str) -> dict[str, Any]:
    return {
        "name": measured.name,
        "measure": figure,
        "unit": unit,
        "better": better,
        "doc": doc,
        "items": len(measured.task.rows),
    }


def outcomes_of(figure: Figure, columns: Columns) -> Array | None:
    """Right or wrong per item, where the figure is a mean of that."""
    return figure.of.outcomes(columns) if isinstance(figure.of, Ratio) else None


def value_entry(drawn: Drawn, outcomes_N: Array | None, options: SuiteOptions) -> dict[str, Any] | None:
    """A figure with its interval; None where the set gives it no value."""
    if not math.isfinite(drawn.value):
        return None
    probabilities = (*_ends(options), *QUANTILES)
    found = drawn.quantiles(probabilities)
    error = drawn.error
    if outcomes_N is not None and found is not None:
        known_N = outcomes_N[numpy.isfinite(outcomes_N)]
        count, items = int(known_N.sum()), len(known_N)
        exact = tests.share_quantiles(count, items, probabilities)
        found = tests.widened(found, exact, probabilities)
        if min(count, items - count) < tests.FEW:
            error = max(error, tests.share_error(count, items))
    return {"value": drawn.value, **_interval(drawn.value, found), "error": error, **_quantiles(found)}


def difference_entry(
    model: Drawn,
    other: Drawn,
    outcomes: tuple[Array | None, Array | None],
    *,
    same: bool,
    options: SuiteOptions,
) -> dict[str, Any] | None:
    """The candidate's figure less the other's; None where one of them has no value."""
    apart = combine(model, other, lambda a, b: a - b)
    if not math.isfinite(apart.value):
        return None
    probabilities = (*_ends(options), *QUANTILES)
    found, error, p_value = apart.quantiles(probabilities), apart.error, None
    if outcomes[0] is not None and outcomes[1] is not None:
        gained, lost, items = tests.discordant(outcomes[0], outcomes[1])
        p_value = tests.mcnemar(gained, lost)
        if gained + lost < tests.FEW and found is not None and not same:
            few = tests.paired_quantiles(gained, lost, items, probabilities)
            found = tests.widened(found, few, probabilities)
            error = max(error, tests.paired_error(gained, lost, items))
    relative = relative_found = None
    if other.value and other.draws_R.all():
        drawn = combine(model, other, lambda a, b: (a - b) / b)
        relative, relative_found = drawn.value, drawn.quantiles(probabilities)
    relative_ends = _interval(relative, relative_found) if relative is not None else {}
    return {
        "difference": apart.value,
        **_interval(apart.value, found),
        "relative": relative,
        "relative_low": relative_ends.get("low"),
        "relative_high": relative_ends.get("high"),
        "error": error,
        **_quantiles(found),
        "relative_quantiles": _quantiles(relative_found)["quantiles"],
        "p_value": p_value,
        "detectable": None if same else detectable(error, apart.items, options.confidence),
    }


def _ends(options: SuiteOptions) -> tuple[float, float]:
    return (1 - options.confidence) / 2, (1 + options.confidence) / 2


def _interval(value: float, found: Sequence[float] | None) -> dict[str, float]:
    """The first two quantiles, moved so that the value is between them: a biased figure's may not be."""
    low, high = (value, value) if found is None else (found[0], found[1])
    return {"low": min(low, value), "high": max(high, value)}


def _quantiles(found: Sequence[float] | None) -> dict[str, dict[str, float] | None]:
    if found is None:
        return {"quantiles": None}
    return {"quantiles": {f"{p:g}": value for p, value in zip(QUANTILES, found[2:], strict=True)}}


def model_entries(inputs: Mapping[str, Input]) -> dict[str, dict[str, str] | None]:
    """The models of the report by role; None for one that is not there."""
    return {
        role: {"digest": inputs[role].digest, "ref": inputs[role].ref} if role in inputs else None
        for role in ROLES
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write canonical JSON: the same content gives the same bytes."""
    path.write_text(
        json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
