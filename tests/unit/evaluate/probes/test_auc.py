"""Separation of two groups: against counting by hand, and with weights as repeated items."""

from __future__ import annotations

import numpy
import pytest

from tasks.evaluate.measure import Array
from tasks.evaluate.probes.auc import auc, share_above

SEEN = numpy.array([3.0, 2.0, 2.0, 5.0])
UNSEEN = numpy.array([1.0, 2.0, 4.0])
ONE = numpy.ones


def repeated(scores: Array, weights: Array) -> Array:
    return numpy.repeat(scores, weights.astype(int))


def test_area_counts_pairs_and_ties_for_half():
    # of 12 pairs: 3 beats 1 and 2; each 2 beats 1 and ties with 2; 5 beats all
    assert auc(SEEN, UNSEEN, ONE((1, 4)), ONE((1, 3)))[0] == pytest.approx((2 + 1.5 + 1.5 + 3) / 12)


def test_share_above_what_the_control_allows():
    # none of three may be above: the threshold is 4, and only 5 is higher
    assert share_above(SEEN, UNSEEN, ONE((1, 4)), ONE((1, 3)), 0.05)[0] == pytest.approx(1 / 4)
    # one of three may: the threshold is 2, and 3 and 5 are higher
    assert share_above(SEEN, UNSEEN, ONE((1, 4)), ONE((1, 3)), 0.34)[0] == pytest.approx(2 / 4)


def test_weights_are_repetitions():
    generator = numpy.random.default_rng(0)
    scores, others = generator.integers(0, 6, 12).astype(float), generator.integers(0, 6, 9).astype(float)
    weights, theirs = generator.integers(0, 4, (20, 12)), generator.integers(0, 4, (20, 9))
    for function, more in ((auc, ()), (share_above, (0.2,))):
        together = function(scores, others, weights.astype(float), theirs.astype(float), *more)
        for found, mine, other in zip(together, weights, theirs, strict=True):
            ours, controls = repeated(scores, mine), repeated(others, other)
            alone = function(ours, controls, ONE((1, len(ours))), ONE((1, len(controls))), *more)[0]
            assert found == pytest.approx(alone)


def test_no_figure_without_either_group():
    for function, more in ((auc, ()), (share_above, (0.2,))):
        found = function(SEEN, UNSEEN, numpy.array([[0.0] * 4, [1.0] * 4]), ONE((2, 3)), *more)
        assert numpy.isnan(found[0])
        assert numpy.isfinite(found[1])


def test_a_tied_control_is_above_together_or_not_at_all():
    tied = numpy.array([4.0, 4.0, 1.0, 1.0])
    assert share_above(numpy.array([4.0, 2.0]), tied, ONE((1, 2)), ONE((1, 4)), 0.25)[0] == 0
    assert share_above(numpy.array([4.0, 2.0]), tied, ONE((1, 2)), ONE((1, 4)), 0.5)[0] == 1
