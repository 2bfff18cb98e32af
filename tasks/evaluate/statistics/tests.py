"""Right or wrong per item: McNemar's test, and intervals that hold where a bootstrap's are too narrow.

Where hardly an item changed, resamples hardly change either (they have no width at all where none changed),
and where the changes go one way their tail is too short: of candidates that lost just what a gate allows, up
to twice as many pass as it says, up to four times as many at 99.5 %. Differences of shares therefore take the
widest of the bootstrap's interval, Student's and `paired_quantiles`, and shares the wider of the bootstrap's
and the exact one. Over every outcome of 20 to 1000 items the error is then at most 1.05 times the stated one
at 95 %, 1.3 times at 99.9 % (tests/claims/test_gates_error_rate.py enumerates them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from scipy import special

from tasks.evaluate.measure import Array

FEW = 10
"""With fewer changes than this the standard error of a difference is `paired_error` at least; with fewer
rights or wrongs that of a share is `share_error`, and a mean of shares has the interval of a share."""


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


def paired_error(gained: float, lost: float, items: int) -> float:
    """Standard error of the difference of two paired shares with one change more of either sort.

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data".
    """
    up, down = (gained + 1) / (items + 2), (lost + 1) / (items + 2)
    return math.sqrt(max(0.0, up + down - (up - down) ** 2) / (items + 2))


def paired_quantiles(gained: float, lost: float, items: int, probabilities: Sequence[float]) -> list[float]:
    """Interval ends of the difference of two paired shares at these probabilities.

    Zou and Donner 2008, "Construction of confidence limits about effect measures: a general approach": from
    the limits of both shares of changes, here the exact ones. Where all changes go one way it is exact.

    Args:
        gained: Items that only the candidate has right; need not be whole where items count in part.
        lost: Items that only the other has right.
        items: Of the set.
        probabilities: Where to read it.
    """
    centre = (gained - lost) / items
    found = []
    for probability in probabilities:
        (up,) = share_quantiles(gained, items, (probability,))
        (down,) = share_quantiles(lost, items, (1 - probability,))
        reach = math.hypot(up - gained / items, down - lost / items)
        found.append(centre + (reach if probability > 0.5 else -reach if probability < 0.5 else 0.0))
    return [max(-1.0, min(1.0, each)) for each in found]


def changes(difference: float, error: float, items: int) -> tuple[float, float]:
    """How many whole items gained and lost would give a mean change and its standard error.

    Exact where every item changed by 1, 0 or -1; where items change in part, as many whole ones as vary as
    much.
    """
    total = items * difference
    squares = (items - 1) * items * error**2 + total * difference
    squares = max(squares, abs(total))
    return (squares + total) / 2, (squares - total) / 2


def share_quantiles(count: float, items: int, probabilities: Sequence[float]) -> list[float]:
    """Exact interval ends for a share of items at these probabilities, the share itself in the middle.

    Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the
    binomial". One-sided, Wilson's interval leaves out up to half as much again as it says where events are
    rare, and so does the bootstrap (twice as much, for a twentieth of 400 items); the exact one never does.
    The count of items that are right in part (a share of samples that pass) need not be whole.
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


def share_error(count: float, items: int) -> float:
    """Standard error of a share with two rights and two wrongs more, as Wilson's interval has it at 95 %.

    Agresti and Coull 1998, "Approximate is better than 'exact' for interval estimation of binomial
    proportions".
    """
    share = (count + 2) / (items + 4)
    return math.sqrt(share * (1 - share) / (items + 4))
