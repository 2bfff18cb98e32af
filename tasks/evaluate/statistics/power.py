"""What a set could have shown: the smallest difference that it detects with a given power."""

from __future__ import annotations

from scipy import special

POWER = 0.8
"""The share of trials in which a true difference of that size would be seen; Cohen 1988, section 2.4."""


def detectable(error: float, items: int, confidence: float, power: float = POWER) -> float | None:
    """The smallest true difference that a two-sided interval of this confidence leaves zero out for.

    Cohen 1988, "Statistical power analysis for the behavioral sciences", section 2.4: the sum of the
    quantiles of both errors, times the standard error; Student's quantiles, for the error is an estimate.

    Args:
        error: Standard error of the difference.
        items: Items that it comes from.
        confidence: Coverage of the interval, e.g. 0.95.
        power: How often it should be seen.

    Returns:
        The difference in the figure's own unit; None where fewer than two items tell nothing.
    """
    if items < 2:
        return None
    reach = special.stdtrit(items - 1, (1 + confidence) / 2) + special.stdtrit(items - 1, power)
    return float(reach * error)
