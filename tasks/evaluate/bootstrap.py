"""Paired bootstrap intervals for ratios of sums over items.

Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentile interval); Koehn 2004,
"Statistical significance tests for machine translation evaluation" (pairing: every model is evaluated on the
same resampled items). Bits per byte is sum(bits) / sum(bytes) over documents, accuracy is sum(right) / count:
both are ratios of sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy

Array = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

CHUNK = 4_000_000
"""Numbers in one block of resampled counts (32 MB)."""


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Model minus the other, and the same relative to the other; relative is None where the other is 0."""

    absolute: Interval
    relative: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Every model's value, and the differences of the first from each of the others."""

    values: Mapping[str, Interval]
    differences: Mapping[str, Difference]


def compare(
    sums: Mapping[str, Array], sizes: Array, *, name: str, seed: int, resamples: int, confidence: float
) -> Comparison:
    """Bootstrap the ratio of each model, and its paired differences.

    Args:
        sums: Numerator per item for each model (bits, or 1 for a right choice); the first is the candidate.
        sizes: Denominator per item (bytes, or 1).
        name: The set's name; it enters the random stream, so a set's figures do not depend on the others.
        seed: The step's seed.
        resamples: Number of resamples.
        confidence: Coverage, e.g. 0.95.
    """
    numerators = numpy.stack(list(sums.values()))
    points = numerators.sum(axis=1) / sizes.sum()
    draws = _draws(numerators, sizes, name, seed, resamples)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]

    def interval(point: float, values: Array) -> Interval:
        low, high = numpy.quantile(values, tails)
        return Interval(float(point), float(low), float(high))

    values = {model: interval(points[i], draws[i]) for i, model in enumerate(sums)}
    differences = {}
    for i, other in enumerate(sums):
        if i > 0:
            apart, drawn = points[0] - points[i], draws[0] - draws[i]
            relative = interval(apart / points[i], drawn / draws[i]) if draws[i].all() and points[i] else None
            differences[other] = Difference(interval(apart, drawn), relative)
    return Comparison(values, differences)


def _draws(numerators: Array, sizes: Array, name: str, seed: int, resamples: int) -> Array:
    """The ratio of every model in every resample, shape (models, resamples)."""
    items = len(sizes)
    salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = numpy.random.default_rng([seed, salt])
    stacked = numpy.vstack([numerators, sizes]).T
    block = max(1, CHUNK // items)
    parts = []
    for start in range(0, resamples, block):
        picks = generator.integers(0, items, size=(min(block, resamples - start), items))
        rows = numpy.arange(len(picks))[:, None] * items
        counts = numpy.bincount((picks + rows).ravel(), minlength=picks.size).reshape(picks.shape)
        parts.append(counts @ stacked)
    totals = numpy.vstack(parts)
    ratios: Array = (totals[:, :-1] / totals[:, -1:]).T
    return ratios
