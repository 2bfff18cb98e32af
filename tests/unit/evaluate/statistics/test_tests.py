"""McNemar's test and the intervals of small counts, against scipy's and published values."""

from __future__ import annotations

import numpy
import pytest
from scipy import stats

from tasks.evaluate.statistics import tests


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 1), (3, 12), (40, 60), (500, 430)])
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int):
    whole = gained + lost
    expected = stats.binomtest(gained, whole).pvalue if whole else 1.0
    assert tests.mcnemar(gained, lost) == pytest.approx(expected)


def test_mcnemar_calls_a_chance_change_no_more_often_than_stated():
    generator = numpy.random.default_rng(0)
    called = 0
    for _ in range(1000):
        one, other = generator.random((2, 60)) < 0.6
        gained, lost, _ = tests.discordant(one.astype(float), other.astype(float))
        called += tests.mcnemar(gained, lost) < 0.05
    assert called / 1000 <= 0.05


def test_discordant_counts_each_way_and_leaves_out_the_unasked():
    now = numpy.array([1.0, 1.0, 0.0, 0.0, numpy.nan])
    then = numpy.array([0.0, 1.0, 1.0, 0.0, 1.0])
    assert tests.discordant(now, then) == (1, 1, 4)


def test_share_quantiles_are_exact():
    expected = stats.binomtest(3, 20).proportion_ci(0.95, method="exact")
    assert tests.share_quantiles(3, 20, (0.025, 0.975)) == pytest.approx([expected.low, expected.high])
    low, high = tests.share_quantiles(0, 20, (0.025, 0.975))
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(0.168, abs=1e-3)  # no event among twenty leaves this much possible


def test_paired_quantiles_have_a_width_where_nothing_changed():
    low, middle, high = tests.paired_quantiles(0, 0, 20, (0.025, 0.5, 0.975))
    assert middle == 0.0
    assert high == pytest.approx(-low)
    assert 0.1 < high < 0.2


def test_paired_quantiles_are_exact_where_all_changes_go_one_way():
    low, _ = tests.paired_quantiles(0, 3, 40, (0.05, 0.95))
    assert low == pytest.approx(-stats.binomtest(3, 40).proportion_ci(0.9, method="exact").high)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 3), (4, 1), (20, 30)])
def test_changes_are_counted_from_the_mean_and_its_error(gained: int, lost: int):
    changed_N = numpy.repeat([1.0, -1.0, 0.0], [gained, lost, 60 - gained - lost])
    error = changed_N.std(ddof=1) / 60**0.5
    assert tests.changes(changed_N.mean(), error, 60) == pytest.approx((gained, lost), abs=1e-9)


def test_changes_in_part_count_as_fewer_whole_ones():
    changed_N = numpy.repeat([-0.5, 0.0], [8, 52])
    gained, lost = tests.changes(changed_N.mean(), changed_N.std(ddof=1) / 60**0.5, 60)
    assert gained == pytest.approx(0.0, abs=1e-9)
    assert 2 <= lost <= 4


def test_paired_quantiles_cover():
    generator = numpy.random.default_rng(1)
    inside = 0
    for _ in range(500):
        kinds = generator.choice(3, size=30, p=[0.9, 0.08, 0.02])
        low, high = tests.paired_quantiles(
            int((kinds == 1).sum()), int((kinds == 2).sum()), 30, (0.025, 0.975)
        )
        inside += low <= 0.06 <= high
    assert inside / 500 >= 0.94


def test_widened_takes_the_outer_ends():
    found = tests.widened([1.0, 2.0, 3.0], [0.5, 9.0, 2.5], (0.05, 0.5, 0.95))
    assert found == [0.5, 2.0, 3.0]
