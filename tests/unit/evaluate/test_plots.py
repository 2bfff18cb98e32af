"""Drawings of the report."""

from __future__ import annotations

import re

import pytest

from tasks.evaluate.page.plots import MOST_POINTS, WIDTH, curve, curve_points, interval, reach, running_mean
from tasks.evaluate.page.words import Change


def moved(value: float, low: float, high: float, better: str = "higher") -> Change:
    return Change("s", "accuracy", "baseline", value, low, high, "points", better, 100, 2.0)


def test_right_of_the_middle_is_better_whichever_way_the_figure_goes() -> None:
    for change in (moved(4, 2, 6), moved(-4, -6, -2, "lower")):
        drawn = interval(change, 10)
        start, end = map(float, re.findall(r'span" d="M([\d.]+) [\d.]+H([\d.]+)', drawn)[0])
        assert WIDTH / 2 < start < end <= WIDTH
        assert 'class="mark"' in drawn
    worse = interval(moved(-4, -6, -2), 10)
    assert float(re.findall(r'span" d="M[\d.]+ [\d.]+H([\d.]+)', worse)[0]) < WIDTH / 2


def test_undecided_has_another_shape() -> None:
    drawn = interval(moved(1, -1, 3), 10)
    assert '<circle class="open"' in drawn
    assert 'class="mark"' not in drawn


def test_the_band_is_as_wide_as_what_could_not_be_seen() -> None:
    width = float(re.findall(r'band" x="[\d.]+" y="0" width="([\d.]+)"', interval(moved(4, 2, 6), 10))[0])
    assert width == pytest.approx((WIDTH - 20) * 0.2, abs=0.1)


def test_the_scale_holds_every_end() -> None:
    assert reach([moved(1, -3, 2), moved(0, -1, 1)]) == 3
    assert reach([]) == 1


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    points = [(float(step), 5 - step / 2000) for step in range(5000)]
    drawn = curve("base", points)
    assert drawn.count("L") < 2 * (MOST_POINTS + 5)
    assert 'aria-label="loss of base over tokens, from 5 to 2.6' in drawn
    assert "5k" in drawn
    curve("flat", [(1.0, 2.0), (2.0, 2.0)])


def test_the_points_that_a_curve_shows_are_data_too() -> None:
    points = [(float(step), 5 - step / 2000) for step in range(5000)]
    told = curve_points(points)
    assert len(told["tokens"]) == len(told["loss"]) == len(told["mean"]) == MOST_POINTS + 1
    assert (told["tokens"][0], told["loss"][0]) == points[0]
    assert (told["tokens"][-1], told["loss"][-1]) == points[-1]
    assert told["mean"][-1] == pytest.approx(running_mean([loss for _, loss in points])[-1])
    assert curve_points([(1.0, 2.0)]) == {"tokens": [1.0], "loss": [2.0], "mean": [2.0]}


def test_running_mean_of_the_last_points() -> None:
    assert running_mean([1.0, 3.0]) == [1.0, 2.0]
    assert running_mean([float(i) for i in range(7)])[-1] == pytest.approx(4.0)
