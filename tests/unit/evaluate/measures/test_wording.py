"""Sun et al. 2023 in shape: wordings that a model was not tuned on score lower, and spread more."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from tasks.evaluate.measures.wording import MEASURE
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Exam
from tasks.evaluate.scoring import Subject, load_subject
from tasks.stage import Input
from tests.unit.evaluate.measures.learning import learn

SEEN = ["Question: {question}\nAnswer:", "Say it: {question} ="]
UNSEEN = ["the value of {question} is a list which is", "when {question} is returned the number is another"]
OPTIONS = SuiteOptions(wordings=SEEN, wordings_unseen=UNSEEN)
ANSWERS = ("a", "b", "c", "d")
THINGS = ("key", "list", "name", "map", "call", "item", "type", "value")
EXAMS = [Exam(thing, thing, ANSWERS, place % 4) for place, thing in enumerate(THINGS)]


@pytest.fixture(scope="module")
def blank(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


def figures(subject: Subject) -> dict[str, float]:
    columns = MEASURE.score(subject, EXAMS, OPTIONS, 0, lambda done: None)
    ones = numpy.ones((1, len(EXAMS)))
    return {figure.name: float(figure.of(columns, ones)[0]) for figure in MEASURE.figures}


def test_unseen_wordings_score_lower(blank: Subject):
    lessons = [
        (prompt.replace("{question}", exam.question), exam.options[exam.answer])
        for prompt in SEEN
        for exam in EXAMS
    ]
    found = figures(learn(blank, lessons, 60))
    assert found["wording_mean"] >= 0.9
    assert found["wording_unseen_mean"] <= found["wording_mean"] - 0.2
    assert found["wording_unseen_worst"] <= found["wording_unseen_mean"]


def test_mean_worst_and_spread_follow_from_the_columns():
    columns = {"worded": numpy.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])}
    found = {
        figure.name: float(figure.of(columns, numpy.ones((1, 4)))[0])
        for figure in MEASURE.figures
        if figure.applies(SuiteOptions(wordings=SEEN))
    }
    assert found == {"wording_mean": 0.5, "wording_worst": 0.25, "wording_spread": 0.5}


def test_scores_do_not_depend_on_the_batch(blank: Subject):
    one, *others = (
        MEASURE.score(blank, EXAMS, OPTIONS.model_copy(update={"batch_size": size}), 0, lambda done: None)
        for size in (1, 7, 64)
    )
    for other in others:
        assert all((one[name] == other[name]).all() for name in one)
