"""The smallest detectable difference is the one that is seen in four of five trials."""

from __future__ import annotations

import math

import numpy
import pytest

from tasks.evaluate.statistics.power import detectable


def test_a_difference_of_that_size_is_seen_in_four_of_five_trials():
    items, spread = 40, 0.5
    size = detectable(spread / math.sqrt(items), items, 0.95)
    assert size is not None
    generator = numpy.random.default_rng(0)
    for true, least, most in ((size, 0.76, 0.84), (size / 2, 0.2, 0.4), (0.0, 0.03, 0.07)):
        trials_TN = generator.normal(true, spread, (2000, items))
        errors_T = trials_TN.std(axis=1, ddof=1) / math.sqrt(items)
        seen = numpy.abs(trials_TN.mean(axis=1)) > 2.0227 * errors_T  # t of 39 degrees, two-sided 95 %
        assert least <= seen.mean() <= most


def test_more_items_detect_less():
    few, many = detectable(0.1, 5, 0.95), detectable(0.1, 500, 0.95)
    assert few is not None
    assert many is not None
    assert few > many
    assert many == pytest.approx(0.1 * (1.965 + 0.842), rel=1e-2)


def test_one_item_detects_nothing():
    assert detectable(0.0, 1, 0.95) is None
