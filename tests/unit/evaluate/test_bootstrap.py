"""Intervals: coverage, pairing, determinism, and the edges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import pytest

from tasks.evaluate.bootstrap import Array, Comparison, compare

ONES = numpy.ones(200)


def run(
    sums: Mapping[str, Array],
    sizes: Array = ONES,
    name: str = "set",
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Comparison:
    return compare(sums, sizes, name=name, seed=seed, resamples=resamples, confidence=confidence)


def drawn(shift: float = 0.0, seed: int = 0) -> Array:
    return numpy.random.default_rng(seed).normal(1.0 + shift, 0.3, 200)


def test_values_are_ratios_of_sums_not_means_of_ratios():
    found = run({"model": numpy.array([10.0, 1.0])}, numpy.array([100.0, 1.0]))
    assert found.values["model"].value == pytest.approx(11 / 101)


def test_interval_is_near_the_normal_one():
    found = run({"model": drawn()}, resamples=4000).values["model"]
    half = 1.96 * drawn().std() / numpy.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found.low < found.value < found.high


def test_pairing_makes_a_common_spread_cancel():
    base = drawn()
    found = run({"model": base - 0.1, "baseline": base})
    difference = found.differences["baseline"]
    assert difference.absolute.low == pytest.approx(-0.1)
    assert difference.absolute.high == pytest.approx(-0.1)
    assert difference.relative is not None
    assert difference.relative.value == pytest.approx(-0.1 / base.mean())
    unpaired = found.values["model"].high - found.values["model"].low
    assert unpaired > 0.05


def test_an_equal_model_differs_by_exactly_nothing():
    found = run({"model": drawn(), "champion": drawn()}).differences["champion"]
    assert (found.absolute.low, found.absolute.value, found.absolute.high) == (0.0, 0.0, 0.0)


def test_figures_repeat_by_seed_and_set_name():
    one = run({"model": drawn()})
    assert one == run({"model": drawn()})
    assert one.values != run({"model": drawn()}, seed=1).values
    assert one.values != run({"model": drawn()}, name="other").values


def test_figures_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch):
    one = run({"model": drawn()})
    monkeypatch.setattr("tasks.evaluate.bootstrap.CHUNK", 200 * 7)
    assert run({"model": drawn()}).values["model"].low == pytest.approx(one.values["model"].low)


def test_relative_is_none_where_the_other_may_be_zero():
    found = run({"model": ONES, "baseline": numpy.zeros(200)}).differences["baseline"]
    assert found.relative is None
    assert found.absolute.value == 1.0


def test_more_confidence_is_wider():
    wide, narrow = (run({"model": drawn()}, confidence=c).values["model"] for c in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_coverage_is_near_what_is_asked_for():
    truth, inside = 1.0, 0
    for seed in range(200):
        found = run({"model": drawn(seed=seed + 1)}, resamples=200, name=str(seed)).values["model"]
        inside += found.low <= truth <= found.high
    assert 0.90 <= inside / 200 <= 0.985
