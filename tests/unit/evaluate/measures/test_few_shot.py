"""Brown et al. 2020 in shape: a model that reads examples gains by them, one that has lost it does not.

Both models have learned the questions and are equally unsure of the answers: without examples the right
answer costs them the same.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import pytest

from tasks.evaluate.measures.few_shot import MEASURE, with_examples
from tasks.evaluate.multiple_choice import asked, score_options
from tasks.evaluate.options import SHOTS, SuiteOptions
from tasks.evaluate.rows import Exam
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input
from tests.unit.evaluate.measures.learning import Lesson, learn

PROMPT = "{question}:"
OPTIONS = SuiteOptions(exam_prompt=PROMPT, shots=[0, 1, 4])
COLOURS = ("a", "b", "c")
THINGS = ("key", "list", "name", "map", "call", "item", "type", "value")


def lessons(same: bool) -> list[Lesson]:
    """Lines of things and colours, to go on with a colour: that of the lines before, or one of its own."""
    draw = random.Random(0)
    found = []
    for _ in range(400):
        colour = draw.choice(COLOURS)
        lines = [
            f"{draw.choice(THINGS)}: {colour if same else draw.choice(COLOURS)}\n\n"
            for _ in range(draw.randint(0, 5))
        ]
        found.append((f"{''.join(lines)}{draw.choice(THINGS)}:", colour))
    return found


@pytest.fixture(scope="module")
def blank(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


EXAMS = [Exam(f"e{place}", THINGS[place % len(THINGS)], COLOURS, 1) for place in range(24)]


def cost(subject: Subject) -> float:
    """Nats of the right answers without examples."""
    found, _ = score_options(subject, [asked(exam, PROMPT) for exam in EXAMS], 16)
    return -float(numpy.mean([values[exam.answer] for values, exam in zip(found, EXAMS, strict=True)]))


@pytest.mark.slow
def test_a_model_that_lost_reading_examples_is_told_by_the_curve_alone(blank: Subject):
    able, lost = learn(blank, lessons(same=True), 120), learn(blank, lessons(same=False), 120)
    assert cost(able) == pytest.approx(cost(lost), rel=0.2)  # what it costs without examples hides it
    read, blind = (MEASURE.score(model, EXAMS, OPTIONS, 0, lambda done: None) for model in (able, lost))
    assert read["right_at_4"].mean() >= 0.9
    assert blind["right_at_4"].mean() <= blind["right_at_0"].mean() + 0.2
    assert read["shots_area"].mean() > blind["shots_area"].mean() + 0.3


def test_examples_are_others_with_their_answers_and_nested():
    rows = [Exam(f"k{i}", f"Q{i}", ("no", f"yes{i}"), 1) for i in range(5)]
    for place in range(5):
        four = with_examples(rows, place, 4, PROMPT, 0).context
        assert four.endswith(f"Q{place}:")
        assert sorted(four.split("\n\n")[:-1]) == [f"Q{i}: yes{i}" for i in range(5) if i != place]
        two = with_examples(rows, place, 2, PROMPT, 0).context
        assert four.endswith(two)
    assert with_examples(rows, 0, 0, PROMPT, 0).context == "Q0:"
    drawn = {with_examples(rows, 0, 2, PROMPT, seed).context for seed in range(8)}
    assert len(drawn) > 1
    again = with_examples(rows, 0, 2, PROMPT, 3)
    assert again == with_examples(rows, 0, 2, PROMPT, 3)


def test_scores_do_not_depend_on_the_batch(blank: Subject):
    one, *others = (
        MEASURE.score(blank, EXAMS, OPTIONS.model_copy(update={"batch_size": size}), 0, lambda done: None)
        for size in (1, 7, 64)
    )
    for other in others:
        assert set(one) == set(other)
        assert all((one[name] == other[name]).all() for name in one)


def test_the_area_is_the_mean_height_of_the_curve(blank: Subject):
    columns = MEASURE.score(blank, EXAMS, OPTIONS, 0, lambda done: None)
    heights = [columns[f"right_at_{shots}"].mean() for shots in (0, 1, 4)]
    area = (heights[0] + heights[1]) / 2 * 1 + (heights[1] + heights[2]) / 2 * 3
    assert columns["shots_area"].mean() == pytest.approx(area / 4)


def test_there_is_a_figure_for_every_number_of_shots():
    names = [figure.name for figure in MEASURE.figures if figure.applies(OPTIONS)]
    assert names == ["few_shot", "accuracy_0", "accuracy_1", "accuracy_4"]
    assert len(MEASURE.figures) == 1 + len(SHOTS)
    assert not MEASURE.applies(SuiteOptions())


def test_too_small_a_set_is_named(blank: Subject):
    with pytest.raises(DataInvalid, match="4 examples cannot be drawn from a set of 4"):
        MEASURE.score(blank, EXAMS[:4], OPTIONS, 0, lambda done: None)
    assert numpy.isfinite(MEASURE.score(blank, EXAMS[:5], OPTIONS, 0, lambda done: None)["right_at_4"]).all()
