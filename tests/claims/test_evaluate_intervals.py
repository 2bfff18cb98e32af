"""Koehn 2004 in shape: pairing decides where separate intervals cannot, and errs no more than stated."""

from __future__ import annotations

import numpy

from tasks.evaluate.bootstrap import Array, Comparison, compare

ITEMS = 120


def difficulties(seed: int) -> tuple[Array, numpy.random.Generator]:
    generator = numpy.random.default_rng(seed)
    return generator.normal(5.0, 1.5, ITEMS), generator


def compared(model: Array, baseline: Array, name: str) -> Comparison:
    sums = {"model": model, "baseline": baseline}
    return compare(sums, numpy.ones(ITEMS), name=name, seed=0, resamples=400, confidence=0.95)


def test_a_small_real_gain_is_seen_by_pairing_and_not_by_separate_intervals():
    paired = separate = 0
    for seed in range(60):
        hard, generator = difficulties(seed)
        found = compared(hard - 0.1 + generator.normal(0, 0.2, ITEMS), hard, str(seed))
        paired += found.differences["baseline"].absolute.high < 0
        separate += found.values["model"].high < found.values["baseline"].low
    assert paired >= 55
    assert separate == 0


def test_a_gain_by_chance_alone_is_called_no_more_often_than_stated():
    called = 0
    for seed in range(400):
        hard, generator = difficulties(1000 + seed)
        found = compared(hard + generator.normal(0, 0.2, ITEMS), hard, str(seed))
        called += found.differences["baseline"].absolute.high < 0
    # one side of a 95 % interval errs in 2.5 % of cases; 400 trials spread that by 0.8 points
    assert called / 400 <= 0.05
