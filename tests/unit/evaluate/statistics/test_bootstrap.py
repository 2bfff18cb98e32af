"""Intervals: coverage, pairing, determinism, and the edges."""

from __future__ import annotations

import math

import numpy
import pytest

from tasks.evaluate.measure import Array, ratio
from tasks.evaluate.statistics.bootstrap import QUANTILES, Drawn, Job, combine, resample

ENDS = (0.025, 0.975)


def draw(
    tops: Array, bottoms: Array | None = None, name: str = "set", seed: int = 0, resamples: int = 1000
) -> Drawn:
    held = {"top": tops, "bottom": numpy.ones(len(tops)) if bottoms is None else bottoms}
    of = ratio("top", "bottom")
    job = Job(lambda weights_RN: of(held, weights_RN))
    (found,) = resample([job], len(tops), name=name, seed=seed, resamples=resamples)
    return found


def difference(one: Drawn, other: Drawn) -> Drawn:
    return combine(one, other, lambda a, b: a - b)


def quantiles(drawn: Drawn, probabilities: tuple[float, ...] = ENDS) -> list[float]:
    found = drawn.quantiles(probabilities)
    assert found is not None
    return found


def sample(shift: float = 0.0, seed: int = 0, count: int = 200) -> Array:
    return numpy.random.default_rng(seed).normal(1.0 + shift, 0.3, count)


def test_values_are_ratios_of_sums_not_means_of_ratios():
    assert draw(numpy.array([10.0, 1.0]), numpy.array([100.0, 1.0])).value == pytest.approx(11 / 101)


def test_interval_is_students():
    low, high = quantiles(draw(sample(), resamples=4000))
    half = 1.972 * sample().std(ddof=1) / numpy.sqrt(200)
    assert high - low == pytest.approx(2 * half, rel=0.08)


def test_small_samples_are_widened_as_hesterberg_says():
    found = draw(sample(count=5), resamples=20_000)
    plain = numpy.quantile(found.draws_R, ENDS)
    low, high = quantiles(found)
    # n = 5: Phi(sqrt(5/4) * t_{4, 0.025}) = Phi(-3.104) = 0.00095 (the table of Hesterberg 2015, section 5.3)
    assert numpy.quantile(found.draws_R, 0.00095) == pytest.approx(low, abs=0.01)
    assert low < plain[0] < plain[1] < high


def test_the_error_is_that_of_the_sample_not_of_its_resamples():
    for count in (5, 50):
        found = draw(sample(count=count), resamples=8000)
        assert found.error == pytest.approx(sample(count=count).std(ddof=1) / math.sqrt(count), rel=0.05)


def test_tails_that_resamples_do_not_reach_take_students():
    found = draw(sample(count=8), resamples=100)
    lowest = quantiles(found, (0.0005,))[0]
    assert lowest < found.draws_R.min()
    assert lowest == pytest.approx(found.value - 5.408 * found.error, rel=1e-3)  # t of 7 degrees at 0.0005


def test_quantiles_rise():
    found = quantiles(draw(sample(count=12), resamples=200), QUANTILES)
    assert found == sorted(found)


def test_pairing_makes_a_common_spread_cancel():
    base = sample()
    model, other = draw(base - 0.1), draw(base)
    assert quantiles(difference(model, other)) == pytest.approx([-0.1, -0.1])
    low, high = quantiles(model)
    assert high - low > 0.05


def test_an_equal_model_differs_by_exactly_nothing():
    apart = difference(draw(sample()), draw(sample()))
    assert (apart.value, apart.error, *quantiles(apart)) == (0.0, 0.0, 0.0, 0.0)


def test_figures_repeat_by_seed_and_set_name():
    one = draw(sample())
    assert (one.draws_R == draw(sample()).draws_R).all()
    assert (one.draws_R != draw(sample(), seed=1).draws_R).any()
    assert (one.draws_R != draw(sample(), name="other").draws_R).any()


def test_figures_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch):
    one = draw(sample())
    monkeypatch.setattr("tasks.evaluate.statistics.bootstrap.CHUNK", 200 * 7)
    assert draw(sample()).draws_R == pytest.approx(one.draws_R)


def test_a_figure_of_some_rows_sees_their_weights_alone():
    held = {"top": numpy.array([1.0, 2.0, 30.0, 40.0])}
    of = ratio("top")
    rows = numpy.array([0, 1])
    some = {"top": held["top"][rows]}
    job = Job(lambda weights_RN: of(some, weights_RN), rows)
    (found,) = resample([job], 4, name="s", seed=0, resamples=100)
    assert (found.value, found.items) == (1.5, 2)
    known = found.draws_R[numpy.isfinite(found.draws_R)]
    assert known.min() >= 1.0
    assert known.max() <= 2.0
    assert len(known) < 100  # a resample without any of the two has no value


def test_one_item_tells_nothing_about_others():
    found = draw(numpy.array([3.0]))
    assert found.quantiles(ENDS) is None
    assert found.error == 0.0


def test_more_confidence_is_wider():
    wide, narrow = (quantiles(draw(sample()), ends) for ends in ((0.005, 0.995), (0.1, 0.9)))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(("count", "least"), [(200, 0.91), (8, 0.93)])
def test_coverage_is_near_what_is_asked_for(count: int, least: float):
    inside = plain = 0
    for seed in range(200):
        found = draw(sample(seed=seed + 1, count=count), resamples=200, name=str(seed))
        low, high = quantiles(found)
        inside += low <= 1.0 <= high
        bare = numpy.quantile(found.draws_R, ENDS)
        plain += bare[0] <= 1.0 <= bare[1]
    assert least <= inside / 200 <= 0.99
    assert count > 8 or plain / 200 < least - 0.02  # plain percentiles are too narrow for a few items
