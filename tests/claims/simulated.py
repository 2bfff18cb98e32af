"""Results per item of a candidate and its baseline, drawn at random, as the entries of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy

from tasks.evaluate.manifest import Task
from tasks.evaluate.measure import Array, Columns, Measure
from tasks.evaluate.measures import bits_per_byte, few_shot, multiple_choice
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.report import Measured, entries
from tasks.stage import Input

OPTIONS = SuiteOptions(resamples=1000)


def report(sets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """report.json of a candidate and a baseline."""
    return {
        "models": {"model": {"digest": "m"}, "baseline": {"digest": "b"}, "champion": None},
        "sets": list(sets),
    }


def documents(name: str, generator: numpy.random.Generator, items: int, change: float) -> dict[str, Any]:
    """Bits per byte of texts of very different lengths; the candidate needs `change` more, as a share."""
    bytes_N = generator.lognormal(6.5, 1.0, items)
    rate_N = generator.normal(1.6, 0.3, items)
    other_N = bytes_N * (rate_N + generator.normal(0, 0.05, items))
    own_N = bytes_N * (rate_N * (1 + change) + generator.normal(0, 0.05, items))
    both = {
        "model": {"nats": own_N, "bytes": bytes_N},
        "baseline": {"nats": other_N, "bytes": bytes_N},
    }
    return entry(name, bits_per_byte.MEASURE, "bits_per_byte", both)


def questions(
    name: str, generator: numpy.random.Generator, items: int, gained: float, lost: float
) -> dict[str, Any]:
    """Right answers: of all items the candidate turns the share `gained` right and the share `lost` wrong."""
    kind_N = generator.choice(4, size=items, p=[gained, lost, 0.5 - gained, 0.5 - lost])
    own_N = numpy.isin(kind_N, (0, 2)).astype(numpy.float64)
    other_N = numpy.isin(kind_N, (1, 2)).astype(numpy.float64)
    return entry(
        name, multiple_choice.MEASURE, "accuracy", {"model": right(own_N), "baseline": right(other_N)}
    )


def changed(name: str, items: int, gained: int, lost: int) -> dict[str, Any]:
    """Right answers of which just so many changed, each way."""
    own_N, other_N = numpy.zeros(items), numpy.zeros(items)
    own_N[:gained] = 1.0
    other_N[gained : gained + lost] = 1.0
    return entry(
        name, multiple_choice.MEASURE, "accuracy", {"model": right(own_N), "baseline": right(other_N)}
    )


def curves(
    name: str, generator: numpy.random.Generator, items: int, lost: float, part: float
) -> dict[str, Any]:
    """Right answers over numbers of examples: of the share `lost` of questions the part `part` is lost."""
    other_N = numpy.full(items, 1.0)
    own_N = other_N - part * (generator.random(items) < lost)
    return entry(
        name,
        few_shot.MEASURE,
        "few_shot",
        {"model": {"shots_area": own_N}, "baseline": {"shots_area": other_N}},
    )


def flips(name: str, lost_N: Array) -> dict[str, Any]:
    """The share of negative flips: every item was right, those of `lost_N` are not."""
    both = {"model": right(1 - lost_N), "baseline": right(numpy.ones_like(lost_N))}
    return entry(name, multiple_choice.MEASURE, "negative_flips", both)


def right(right_N: Array) -> dict[str, Array]:
    """The column that accuracy and flips follow from."""
    return {"right": right_N}


def entry(name: str, measure: Measure, figure: str, columns: Mapping[str, Columns]) -> dict[str, Any]:
    """One figure's entry of report.json, as the suite makes it."""
    only = Measure(
        **{
            **vars(measure),
            "figures": tuple(each for each in measure.figures if each.name == figure),
            "comparisons": tuple(each for each in measure.comparisons if each.name == figure),
        }
    )
    items = len(next(iter(columns["model"].values())))
    rows = [SimpleNamespace(key=str(number), group="") for number in range(items)]
    task = Task("port", only, Input(f"data.{name}", "0" * 64, "exams", Path()), rows)
    (found,) = entries(Measured(task, columns), OPTIONS, seed=0)
    return found
