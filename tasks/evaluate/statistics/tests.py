"""Right or wrong per item: McNemar's test, and intervals for counts too small for a bootstrap.

Where hardly an item changed, resamples hardly change either, and their interval is too narrow (it has no
width at all where none changed). Differences with fewer than `FEW` changes therefore take the wider of both,
and shares always do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from scipy import special

from tasks.evaluate.measure import Array

FEW = 10
"""With fewer changes than this, `paired_quantiles` widen the bootstrap's; with fewer rights or wrongs, the
standard error of a share is `share_error`."""


def discordant(candidate_N: Array, other_N: Array) -> tuple[int, int, int]:
    """How many items only the candidate has right, how many only the other, and how many both were asked."""
    asked_N = numpy.isfinite(candidate_N) & numpy.isfinite(other_N)
    return (
        int(((candidate_N == 1) & (other_N == 0)).sum()),
        int(((candidate_N == 0) & (other_N == 1)).sum()),
        int(asked_N.sum()),
    )


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value that gains and losses are equally likely, by the exact binomial distribution.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages". The exact form is used for every count: it is as quick, and never claims too much.
    """
    if gained + lost == 0:
        return 1.0
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))


def paired_error(gained: int, lost: int, items: int) -> float:
    """Standard error of the difference of two paired shares with one change more of either sort.

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data".
    """
    up, down = (gained + 1) / (items + 2), (lost + 1) / (items + 2)
    return math.sqrt(max(0.0, up + down - (up - down) ** 2) / (items + 2))


def paired_quantiles(gained: int, lost: int, items: int, probabilities: Sequence[float]) -> list[float]:
    """Bonett and Price's interval ends at these probabilities."""
    centre = (gained - lost) / (items + 2)
    error = paired_error(gained, lost, items)
    return [max(-1.0, min(1.0, centre + float(special.ndtri(p)) * error)) for p in probabilities]


def share_quantiles(count: int, items: int, probabilities: Sequence[float]) -> list[float]:
    """Exact interval ends for a share of items at these probabilities, the share itself in the middle.

    Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the
    binomial". One-sided, Wilson's interval leaves out up to half as much again as it says where events are
    rare, and so does the bootstrap (twice as much, for a twentieth of 400 items); the exact one never does.
    """
    found = []
    for probability in probabilities:
        if probability < 0.5:
            end = float(special.betaincinv(count, items - count + 1, probability)) if count else 0.0
        elif probability > 0.5:
            end = float(special.betaincinv(count + 1, items - count, probability)) if count < items else 1.0
        else:
            end = count / items
        found.append(end)
    return found


def widened(one: Sequence[float], other: Sequence[float], probabilities: Sequence[float]) -> list[float]:
    """The wider of two sets of quantiles: the smaller below the median, the larger above it."""
    return [
        min(a, b) if p < 0.5 else max(a, b) if p > 0.5 else a
        for a, b, p in zip(one, other, probabilities, strict=True)
    ]


def share_error(count: int, items: int) -> float:
    """Standard error of a share with two rights and two wrongs more, as Wilson's interval has it at 95 %.

    Agresti and Coull 1998, "Approximate is better than 'exact' for interval estimation of binomial
    proportions".
    """
    share = (count + 2) / (items + 4)
    return math.sqrt(share * (1 - share) / (items + 4))
