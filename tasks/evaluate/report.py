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
from tasks.evaluate.measure import Array, Columns, Comparison, Figure, Ratio, Share, asked
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
            pool.jobs[figure.name, role] = Job(_of(figure, held), asked=asked(figure, held))
            for group, rows in groups.items():
                part = {name: values[rows] for name, values in held.items()}
                pool.jobs[figure.name, role, group] = Job(_of(figure, part), rows, asked(figure, part))
    for comparison in measure.comparisons:
        for role in ROLES[1:]:
            if role in columns:
                pool.jobs[comparison.name, role] = _comparing(comparison, columns["model"], columns[role])
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


def _of(figure: Figure, columns: Columns) -> Callable[[Array], Array]:
    return lambda weights_RN: figure.of(columns, weights_RN)


def _comparing(comparison: Comparison, columns: Columns, other: Columns) -> Job:
    items = None
    if isinstance(comparison.of, Share):
        items = int(numpy.isfinite(comparison.of.true_of(columns, other)).sum())
    return Job(lambda weights_RN: comparison.of(columns, other, weights_RN), asked=items)


def _figure_entry(
    measured: Measured, figure: Figure, groups: Mapping[str, Array], pool: _Pool, options: SuiteOptions
) -> dict[str, Any]:
    outcomes = {role: outcomes_of(figure, columns) for role, columns in measured.columns.items()}
    share, items = figure.unit == "", pool.drawn[figure.name, "model"].items
    entry = _entry(measured, figure.name, figure.unit, figure.better, figure.doc, items)
    entry["values"] = {
        role: value_entry(pool.drawn[figure.name, role], outcomes[role], options, share=share)
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
            share=share,
        )
        if role in outcomes
        else None
        for role in ROLES[1:]
    }
    if groups:
        entry["groups"] = {
            group: {
                "items": pool.drawn[figure.name, "model", group].items,
                "values": {
                    role: value_entry(pool.drawn[figure.name, role, group], None, options, share=share)
                    if role in outcomes
                    else None
                    for role in ROLES
                },
            }
            for group in groups
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
    share = figure.unit == ""
    entry = _entry(measured, f"{figure.name}{GAP}", figure.unit, "lower", words, gaps["model"].items)
    entry["values"] = {
        role: value_entry(gaps[role], None, options, share=share) if role in gaps else None for role in ROLES
    }
    entry["against"] = {
        role: difference_entry(
            gaps["model"],
            gaps[role],
            (None, None),
            same=measured.columns["model"] is measured.columns[role],
            options=options,
            share=share,
        )
        if role in gaps
        else None
        for role in ROLES[1:]
    }
    return entry


def _gap(drawn: Sequence[Drawn]) -> Drawn:
    """It is known no better than the figure of the smallest group."""
    values = numpy.array([each.value for each in drawn])
    draws_GR = numpy.stack([each.draws_R for each in drawn])
    items = min(each.items for each in drawn)
    return Drawn(float(numpy.ptp(values)), numpy.ptp(draws_GR, axis=0), items)


def _comparison_entry(
    measured: Measured, comparison: Comparison, pool: _Pool, options: SuiteOptions
) -> dict[str, Any]:
    drawn_of = {role: pool.drawn.get((comparison.name, role)) for role in ROLES[1:]}
    items = max((each.items for each in drawn_of.values() if each is not None), default=0)
    entry = _entry(measured, comparison.name, comparison.unit, comparison.better, comparison.doc, items)
    entry["values"] = dict.fromkeys(ROLES)
    against: dict[str, Any] = {}
    for role in ROLES[1:]:
        drawn = drawn_of[role]
        if drawn is None or not math.isfinite(drawn.value):
            against[role] = None
            continue
        candidate, other = measured.columns["model"], measured.columns[role]
        outcomes = comparison.of.outcomes(candidate, other) if isinstance(comparison.of, Share) else None
        same = candidate is other
        share = comparison.unit == "" and not same
        value = value_entry(drawn, None if same else outcomes, options, share=share)
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


def _entry(measured: Measured, figure: str, unit: str, better: str, doc: str, items: int) -> dict[str, Any]:
    return {
        "name": measured.name,
        "measure": figure,
        "unit": unit,
        "better": better,
        "doc": doc,
        "items": items,
    }


def outcomes_of(figure: Figure, columns: Columns) -> Array | None:
    """Right or wrong per item, where the figure is a mean of that."""
    return figure.of.outcomes(columns) if isinstance(figure.of, Ratio) else None


def value_entry(
    drawn: Drawn, outcomes_N: Array | None, options: SuiteOptions, *, share: bool
) -> dict[str, Any] | None:
    """A figure with its interval; None where the set gives it no value.

    Args:
        drawn: The figure and its resamples.
        outcomes_N: Right or wrong per item, where it is the mean of that.
        options: The interval's confidence.
        share: It is a share of sampled items, or a mean of such: its interval is no narrower than items so
            few, or so much alike, allow.
    """
    if not math.isfinite(drawn.value):
        return None
    probabilities = (*_ends(options), *QUANTILES)
    found = drawn.quantiles(probabilities)
    error = drawn.error
    if share and found is not None and 0 <= drawn.value <= 1:
        items = drawn.items
        count = drawn.value * items if outcomes_N is None else round(drawn.value * items)
        few = min(count, items - count) < tests.FEW
        if few or outcomes_N is not None:
            found = tests.widened(found, tests.share_quantiles(count, items, probabilities), probabilities)
        if few:
            error = max(error, tests.share_error(count, items))
    return {"value": drawn.value, **_interval(drawn.value, found), "error": error, **_quantiles(found)}


def difference_entry(
    model: Drawn,
    other: Drawn,
    outcomes: tuple[Array | None, Array | None],
    *,
    same: bool,
    options: SuiteOptions,
    share: bool,
) -> dict[str, Any] | None:
    """The candidate's figure less the other's; None where one of them has no value.

    Args:
        model: The candidate's figure.
        other: The other's, in the same resamples.
        outcomes: Right or wrong per item of both, where the figure is the mean of that.
        same: They are one model.
        options: The interval's confidence.
        share: As in `value_entry`.
    """
    apart = combine(model, other, lambda a, b: a - b)
    if not math.isfinite(apart.value):
        return None
    probabilities = (*_ends(options), *QUANTILES)
    found, error, p_value = apart.quantiles(probabilities), apart.error, None
    gained: float
    lost: float
    if outcomes[0] is not None and outcomes[1] is not None:
        gained, lost, items = tests.discordant(outcomes[0], outcomes[1])
        p_value = tests.mcnemar(gained, lost)
    else:
        items = apart.items
        gained, lost = tests.changes(apart.value, apart.error, items) if items else (0, 0)
    widens = share and not same and found is not None and abs(apart.value) <= 1
    if widens and found is not None:
        found = tests.widened(found, apart.students(probabilities), probabilities)
        found = tests.widened(
            found, tests.paired_quantiles(gained, lost, items, probabilities), probabilities
        )
        if gained + lost < tests.FEW:
            error = max(error, tests.paired_error(gained, lost, items))
    relative = relative_found = None
    if other.value:
        drawn = combine(model, other, lambda a, b: (a - b) / b)
        relative = drawn.value
        # With other items the other's figure could be 0: then the change has no distribution.
        relative_found = drawn.quantiles(probabilities) if other.draws_R.all() else None
        if widens and found is not None and relative_found is not None and other.value > 0:
            scaled = [each / other.value for each in found]
            relative_found = tests.widened(relative_found, scaled, probabilities)
    relative_ends: dict[str, float] = {}
    if relative is not None and relative_found is not None:
        relative_ends = _interval(relative, relative_found)
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
