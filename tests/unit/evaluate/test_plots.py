"""Small figures on the plots."""

from __future__ import annotations

import pytest

from tasks.evaluate.plots import BETTER, UNDECIDED, WORSE, running_mean, signed, thousands, verdict_colour


@pytest.mark.parametrize(
    ("low", "high", "better", "colour"),
    [
        (-2, -1, "lower", BETTER),
        (-2, -1, "higher", WORSE),
        (1, 2, "lower", WORSE),
        (1, 2, "higher", BETTER),
        (-1, 1, "lower", UNDECIDED),
        (0, 1, "higher", UNDECIDED),
    ],
)
def test_verdict_needs_an_interval_without_zero(low: float, high: float, better: str, colour: str):
    assert verdict_colour(low, high, better) == colour


def test_counts_are_shortened():
    assert [thousands(value) for value in (950, 12_000, 3_400_000, 2e9)] == ["950", "12k", "3.4M", "2B"]


def test_differences_have_a_sign():
    assert [signed(value) for value in (1.25, -3.14, 0.0, -0.01)] == ["+1.2", "\u22123.1", "0.0", "0.0"]


def test_running_mean_of_the_last_points():
    assert running_mean([1.0, 3.0]) == [1.0, 2.0]
    assert running_mean([float(i) for i in range(7)])[-1] == pytest.approx(4.0)
