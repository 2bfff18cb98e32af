"""The spread over seeds, and the note where a difference is no larger."""

from __future__ import annotations

import numpy
import pytest

from tasks.evaluate.measure import Columns, Figure, ratio
from tasks.evaluate.probes.seeds import spread_over_seeds, within_spread

ONCE = numpy.ones((1, 3))


def columns(after_NS: list[list[float]]) -> Columns:
    held = numpy.array(after_NS)
    return {"after": held.mean(axis=1), "after_seeds": held, "size": numpy.array([1.0, 1.0, 2.0])}


def test_the_spread_is_the_deviation_of_the_figure_over_seeds():
    held = columns([[1.0, 3.0], [1.0, 3.0], [2.0, 6.0]])  # 1 with one seed and 3 with the other
    figure = spread_over_seeds("after", "after_seeds", 2, "bits", "size")
    assert (figure.name, figure.better, figure.unit) == ("after_spread", "lower", "bits")
    assert figure.of(held, ONCE)[0] == pytest.approx(numpy.std([1.0, 3.0], ddof=1))
    assert figure.of(columns([[1.0, 1.0]] * 3), ONCE)[0] == 0.0
    only_first = numpy.array([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    assert figure.of(held, only_first) == pytest.approx(numpy.full(2, numpy.std([1.0, 3.0], ddof=1)))


def test_items_that_have_no_value_are_left_out_of_the_spread():
    held = dict(columns([[1.0, 3.0], [numpy.nan, numpy.nan], [1.0, 3.0]]))
    figure = spread_over_seeds("after", "after_seeds", 2, "")
    assert figure.of(held, ONCE)[0] == pytest.approx(numpy.std([1.0, 3.0], ddof=1))


def test_a_difference_within_the_spread_is_told_and_a_larger_one_is_not():
    figures = [
        Figure("after", "lower", "", "", ratio("after", "size")),
        spread_over_seeds("after", "after_seeds", 2, "", "size"),
    ]
    own, near, far = (
        columns([[at, at + 1.0], [at, at + 1.0], [2 * at, 2 * at + 2.0]]) for at in (1.0, 1.5, 4.0)
    )
    notes = list(within_spread({"model": own, "baseline": near, "champion": far}, figures, ("after",)))
    assert len(notes) == 1
    assert "difference from the baseline (-0.5) is no larger than the spread over seeds (0.707)" in notes[0]
    assert list(within_spread({"model": own, "champion": own}, figures, ("after",))) == []
