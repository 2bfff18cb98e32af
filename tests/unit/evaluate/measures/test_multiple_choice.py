"""Choices, calibration, flips: from log-likelihoods to figures."""

from __future__ import annotations

import numpy
import pytest

from tasks.evaluate.measure import Array
from tasks.evaluate.measures.multiple_choice import MEASURE, columns_of
from tasks.evaluate.multiple_choice import ExamScore, choose
from tasks.evaluate.rows import Exam

COMPARED = {comparison.name: comparison.of for comparison in MEASURE.comparisons}
FIGURES = {figure.name: figure.of for figure in MEASURE.figures}


def columns(likelihoods: list[list[float]], answers: list[int]) -> dict[str, Array]:
    rows = [
        Exam(str(place), "?", tuple("abcd"[: len(values)]), answer)
        for place, (values, answer) in enumerate(zip(likelihoods, answers, strict=True))
    ]
    scores = [
        ExamScore(tuple(values), choose(values, row.options), int(numpy.argmax(values)))
        for values, row in zip(likelihoods, rows, strict=True)
    ]
    return columns_of(rows, scores)


def figure(name: str, held: dict[str, Array]) -> float:
    return float(FIGURES[name](held, numpy.ones((1, len(held["right"]))))[0])


def compared(name: str, one: dict[str, Array], other: dict[str, Array]) -> float:
    return float(COMPARED[name](one, other, numpy.ones((1, len(one["right"]))))[0])


def test_questions_with_fewer_options_are_padded():
    held = columns([[-1.0, -2.0], [-3.0, -1.0, -2.0]], [0, 0])
    assert numpy.isnan(held["log_likelihoods"][0, 2])
    assert figure("accuracy", held) == 0.5


def test_brier_is_the_squared_distance_from_the_truth():
    held = columns([[float(numpy.log(0.7)), float(numpy.log(0.3))], [0.0, -50.0]], [0, 1])
    assert held["confidence"] == pytest.approx([0.7, 1.0])
    assert held["brier"] == pytest.approx([0.3**2 + 0.3**2, 2.0])


def test_a_sure_model_that_is_right_as_often_as_it_says_is_calibrated():
    generator = numpy.random.default_rng(0)
    shares = generator.dirichlet([1.0, 1.0, 1.0], 4000)
    answers = [int(generator.choice(3, p=share)) for share in shares]
    true = numpy.log(shares)
    honest, sure = columns(true.tolist(), answers), columns((4 * true).tolist(), answers)
    assert figure("calibration_error", honest) < 0.03
    assert figure("calibration_error", sure) > 0.15
    assert figure("accuracy", sure) == figure("accuracy", honest)  # accuracy does not see it
    assert figure("brier", sure) > figure("brier", honest)


def test_calibration_error_by_hand():
    # three answers at 0.9, two right; one at 0.6, wrong: 3/4 |0.9 - 2/3| + 1/4 |0.6 - 0|
    pairs = [(0.9, 0), (0.9, 0), (0.9, 1), (0.6, 1)]
    held = columns(
        [[float(numpy.log(share)), float(numpy.log(1 - share))] for share, _ in pairs],
        [answer for _, answer in pairs],
    )
    assert figure("calibration_error", held) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.6)


def chosen(places: list[int], answers: list[int]) -> dict[str, Array]:
    return columns([[float(place == k) for k in range(3)] for place in places], answers)


def test_flips_and_inconsistency_as_muscle_counts_them():
    answers = [0, 0, 0, 0, 0]
    was = chosen([0, 0, 1, 1, 1], answers)
    now = chosen([0, 1, 0, 1, 2], answers)
    assert compared("negative_flips", now, was) == pytest.approx(1 / 5)
    assert compared("positive_flips", now, was) == pytest.approx(1 / 5)
    assert compared("inconsistency", now, was) == pytest.approx(1 / 5)
    assert figure("accuracy", now) == figure("accuracy", was)  # which accuracy does not see
    for name in COMPARED:
        assert compared(name, was, was) == 0.0
