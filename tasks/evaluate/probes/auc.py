"""How well scores tell two groups apart, for the set itself and for resamples of it.

Shapes: P items of the group that should score higher, N items of the other, R resamples.
"""

from __future__ import annotations

import numpy

from tasks.evaluate.measure import Array


def auc(scores_P: Array, scores_N: Array, weights_RP: Array, weights_RN: Array) -> Array:
    """Area under the receiver operating characteristic, shape (R,); NaN where a group is empty.

    The chance that an item of the first group scores higher than one of the second, ties counting half
    (Hanley and McNeil 1982), every item as often as its weight says.
    """
    ahead_PN = (scores_P[:, None] > scores_N) + 0.5 * (scores_P[:, None] == scores_N)
    pairs_R = weights_RP.sum(axis=1) * weights_RN.sum(axis=1)
    won_R = ((weights_RP @ ahead_PN) * weights_RN).sum(axis=1)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        areas_R: Array = won_R / pairs_R
    return numpy.where(pairs_R > 0, areas_R, numpy.nan)


def share_above(
    scores_P: Array, scores_N: Array, weights_RP: Array, weights_RN: Array, false_positives: float
) -> Array:
    """Share of the first group above the threshold that the second sets, shape (R,); NaN where one is empty.

    The threshold is the lowest score of the second group above which lies at most the share
    `false_positives` of it.
    """
    order = numpy.argsort(-scores_N, kind="stable")
    falling_N, weights_RN = scores_N[order], weights_RN[:, order]
    totals_R = weights_RN.sum(axis=1)
    # Weight of all that scores higher: equal scores are above the threshold together or not at all.
    higher = numpy.searchsorted(-falling_N, -falling_N, side="left")
    sums_RN = numpy.concatenate([numpy.zeros((len(weights_RN), 1)), numpy.cumsum(weights_RN, axis=1)], axis=1)
    allowed_RN = (sums_RN[:, higher] <= false_positives * totals_R[:, None] + 1e-9) & (weights_RN > 0)
    last_R = len(falling_N) - 1 - numpy.argmax(allowed_RN[:, ::-1], axis=1)
    above_RP = scores_P[None] > falling_N[last_R][:, None]
    counts_R = weights_RP.sum(axis=1)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        shares_R: Array = (above_RP * weights_RP).sum(axis=1) / counts_R
    return numpy.where((counts_R > 0) & (totals_R > 0), shares_R, numpy.nan)
