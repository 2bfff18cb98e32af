"""The one-sided ends of a difference at a gate's confidence, from the quantiles that the report keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from tasks.recipe.failures import ConfigInvalid

NORMAL = NormalDist()
POWER = 0.8
"""The chance with which a difference of the detectable size is found; Cohen 1988, section 2.4."""

TOLERANCE = 1e-9
"""Probabilities nearer than this are the same."""


@dataclass(frozen=True)
class Ends:
    """What a difference may be, at a confidence on each side.

    Attributes:
        low: With that confidence it is not below this.
        high: With that confidence it is not above this.
        error: Its standard error, as the distance of the ends tells it.
    """

    low: float
    high: float
    error: float


def ends(quantiles: Mapping[str, float], tail: float) -> Ends:
    """The one-sided ends that leave out `tail` each.

    Raises:
        ConfigInvalid: The report keeps no quantiles so far out.
    """
    low, high = quantile(quantiles, tail), quantile(quantiles, 1 - tail)
    return Ends(low, high, (high - low) / (2 * NORMAL.inv_cdf(1 - tail)))


def quantile(quantiles: Mapping[str, float], probability: float) -> float:
    """A quantile of the distribution that the report keeps at some probabilities.

    Between two of them a straight line over the normal scores, which is exact for a normal distribution.

    Raises:
        ConfigInvalid: The probability lies beyond those that are kept.
    """
    kept = sorted((float(key), value) for key, value in quantiles.items())
    for place, value in kept:
        if math.isclose(place, probability, rel_tol=0, abs_tol=TOLERANCE):
            return value
    below = [pair for pair in kept if pair[0] < probability]
    above = [pair for pair in kept if pair[0] > probability]
    if not below or not above:
        span = f"from {kept[0][0]:g} to {kept[-1][0]:g}" if kept else "nowhere"
        raise ConfigInvalid(
            f"the report keeps the distribution {span}, and the gates need it at {probability:g}: give fewer "
            f"gates a confidence, or a lower one"
        )
    (left, start), (right, end) = below[-1], above[0]
    scores = [NORMAL.inv_cdf(each) for each in (left, probability, right)]
    return start + (scores[1] - scores[0]) / (scores[2] - scores[0]) * (end - start)


def detectable(found: Ends, tail: float) -> float:
    """The smallest true distance from a limit that the gate decides on with `POWER`, in its own unit."""
    return (NORMAL.inv_cdf(1 - tail) + NORMAL.inv_cdf(POWER)) * found.error


def needed(found: Ends, tail: float, items: int, distance: float) -> int | None:
    """About how many items would decide at this distance from the limit; None where none would.

    The standard error falls with the root of the number of items.
    """
    if distance == 0 or not math.isfinite(distance):
        return None
    return max(items, math.ceil(items * (detectable(found, tail) / distance) ** 2))
