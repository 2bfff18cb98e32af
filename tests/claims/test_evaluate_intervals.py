"""Koehn 2004 in shape: pairing decides where separate intervals cannot, and errs no more than stated."""

from __future__ import annotations

import numpy

from tasks.evaluate.measure import Array, ratio
from tasks.evaluate.statistics.bootstrap import Drawn, Job, combine, resample

ITEMS = 120
ENDS = (0.025, 0.975)


def difficulties(seed: int) -> tuple[Array, numpy.random.Generator]:
    generator = numpy.random.default_rng(seed)
    return generator.normal(5.0, 1.5, ITEMS), generator


def drawn(name: str, *models: Array) -> list[Drawn]:
    of = ratio("cost")

    def job(model: Array) -> Job:
        return Job(lambda weights_RN: of({"cost": model}, weights_RN))

    jobs = [job(model) for model in models]
    return resample(jobs, len(models[0]), name=name, seed=0, resamples=400)


def ends(found: Drawn) -> tuple[float, float]:
    low, high = found.quantiles(ENDS) or (0.0, 0.0)
    return low, high


def test_a_small_real_gain_is_seen_by_pairing_and_not_by_separate_intervals():
    paired = separate = 0
    for seed in range(60):
        hard, generator = difficulties(seed)
        model, baseline = drawn(str(seed), hard - 0.1 + generator.normal(0, 0.2, ITEMS), hard)
        paired += ends(combine(model, baseline, lambda a, b: a - b))[1] < 0
        separate += ends(model)[1] < ends(baseline)[0]
    assert paired >= 55
    assert separate == 0


def test_a_gain_by_chance_alone_is_called_no_more_often_than_stated():
    called = 0
    for seed in range(400):
        hard, generator = difficulties(1000 + seed)
        model, baseline = drawn(str(seed), hard + generator.normal(0, 0.2, ITEMS), hard)
        called += ends(combine(model, baseline, lambda a, b: a - b))[1] < 0
    # one side of a 95 % interval errs in 2.5 % of cases; 400 trials spread that by 0.8 points
    assert called / 400 <= 0.05
