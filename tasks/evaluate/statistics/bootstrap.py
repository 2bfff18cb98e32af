"""Paired bootstrap of any figure over the items of a set.

Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentile interval); Koehn 2004,
"Statistical significance tests for machine translation evaluation" (pairing: every model is evaluated on the
same resampled items); Hesterberg 2015, "What teachers should know about the bootstrap", section 5 (expanded
percentiles: resamples of N items vary too little by a factor of sqrt((N-1)/N) and have no fat tails, so a
tail of probability a is read at Phi(sqrt(N/(N-1)) t_{N-1, a})). Differently from these, a tail with fewer
than `RESOLVED` resamples in it is the wider of what the resamples say and Student's interval.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy
from scipy import special

from tasks.evaluate.measure import Array

CHUNK = 4_000_000
"""Numbers in one block of resampled counts (32 MB)."""

LOWER = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
QUANTILES = (*LOWER, 0.5, *(round(1 - each, 6) for each in reversed(LOWER)))
"""The probabilities at which the report keeps a difference's distribution."""

RESOLVED = 10
"""Resamples that a tail must hold to be read from them alone."""


@dataclass(frozen=True)
class Job:
    """A figure to resample.

    Attributes:
        of: From weights_RN (how often each item counts) to the R values.
        rows: The items that it is about, by index; all where None.
        asked: How many of these it follows from; all where None.
    """

    of: Callable[[Array], Array]
    rows: Array | None = None
    asked: int | None = None


@dataclass(frozen=True)
class Drawn:
    """A figure on the set itself and in every resample.

    Attributes:
        value: On the set.
        draws_R: In the resamples; NaN where one has none.
        items: How many items it is about.
    """

    value: float
    draws_R: Array
    items: int

    @property
    def error(self) -> float:
        """Standard error, corrected for the narrowness of resamples; 0 where nothing varies."""
        draws = self.draws_R[numpy.isfinite(self.draws_R)]
        if len(draws) < 2 or self.items < 2:
            return 0.0
        return float(draws.std(ddof=1) * math.sqrt(self.items / (self.items - 1)))

    def quantiles(self, probabilities: Sequence[float]) -> list[float] | None:
        """The distribution at these probabilities, widened for small samples; None below two items."""
        draws = self.draws_R[numpy.isfinite(self.draws_R)]
        if self.items < 2 or not len(draws) or not math.isfinite(self.value):
            return None
        students = special.stdtrit(self.items - 1, numpy.array(probabilities))
        widened = special.ndtr(math.sqrt(self.items / (self.items - 1)) * students)
        found = numpy.quantile(draws, widened)
        ends = self.value + students * self.error
        held = numpy.minimum(widened, 1 - widened) * len(draws)
        unsure = held < RESOLVED
        found = numpy.where(unsure & (students < 0), numpy.minimum(found, ends), found)
        found = numpy.where(unsure & (students > 0), numpy.maximum(found, ends), found)
        return [float(each) for each in found]

    def students(self, probabilities: Sequence[float]) -> list[float]:
        """Student's interval at these probabilities, from the standard error."""
        reach = special.stdtrit(self.items - 1, numpy.array(probabilities))
        return [float(each) for each in self.value + reach * self.error]


def resample(jobs: Sequence[Job], items: int, *, name: str, seed: int, resamples: int) -> list[Drawn]:
    """Every figure on the set itself and in the same resamples of its items.

    Args:
        jobs: The figures.
        items: Items of the set.
        name: The set's name; it enters the random stream, so a set's figures do not depend on the others.
        seed: The step's seed.
        resamples: Number of resamples.
    """
    points = _values(jobs, numpy.ones((1, items)))
    blocks = [_values(jobs, weights_RN) for weights_RN in weights(items, name, seed, resamples)]
    return [
        Drawn(float(points[i][0]), numpy.concatenate([block[i] for block in blocks]), size(job, items))
        for i, job in enumerate(jobs)
    ]


def size(job: Job, items: int) -> int:
    """How many items a figure follows from, of a set of `items`."""
    if job.asked is not None:
        return job.asked
    return items if job.rows is None else len(job.rows)


def combine(one: Drawn, other: Drawn, of: Callable[[Array, Array], Array]) -> Drawn:
    """A figure of two figures that were drawn together: their difference, their ratio."""
    with numpy.errstate(divide="ignore", invalid="ignore"):
        value = float(of(numpy.array([one.value]), numpy.array([other.value]))[0])
        return Drawn(value, of(one.draws_R, other.draws_R), min(one.items, other.items))


def weights(items: int, name: str, seed: int, resamples: int) -> Iterator[Array]:
    """How often each item counts in each resample, weights_RN, in blocks of rows that fit into memory."""
    salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = numpy.random.default_rng([seed, salt])
    block = max(1, CHUNK // items)
    for start in range(0, resamples, block):
        picks = generator.integers(0, items, size=(min(block, resamples - start), items))
        places = numpy.arange(len(picks))[:, None] * items
        counts = numpy.bincount((picks + places).ravel(), minlength=picks.size).reshape(picks.shape)
        yield counts.astype(numpy.float64)


def _values(jobs: Sequence[Job], weights_RN: Array) -> list[Array]:
    slices: dict[int, Array] = {}
    found = []
    for job in jobs:
        if job.rows is None:
            found.append(job.of(weights_RN))
            continue
        if id(job.rows) not in slices:
            slices[id(job.rows)] = weights_RN[:, job.rows.astype(numpy.intp)]
        found.append(job.of(slices[id(job.rows)]))
    return found
