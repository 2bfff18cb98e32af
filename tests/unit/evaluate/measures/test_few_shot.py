"""Brown et al. 2020 in shape: a model that reads examples gains by them, one that has lost it does not.

Both models know the questions' form equally well: without examples neither their accuracy nor what the
questions cost them tells the two apart.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import pytest

from tasks.evaluate.bits_per_byte import score_documents
from tasks.evaluate.measures.few_shot import MEASURE, with_examples
from tasks.evaluate.options import SHOTS, SuiteOptions
from tasks.evaluate.rows import Document, Exam
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input
from tests.unit.evaluate.measures.learning import learn

PROMPT = "{question}:"
OPTIONS = SuiteOptions(exam_prompt=PROMPT, shots=[0, 1, 4])
COLOURS = ("a", "b", "c")
THINGS = ("key", "list", "name", "map", "call", "item", "type", "value")


def line(draw: random.Random, colour: str) -> str:
    return f"{draw.choice(THINGS)}: {colour}"


def documents(same: bool) -> list[str]:
    """Lines of things and colours; in one document all colours are the same, or each is drawn by itself."""
    draw = random.Random(0)
    texts = []
    for _ in range(400):
        colour = draw.choice(COLOURS)
        lines = [line(draw, colour if same else draw.choice(COLOURS)) for _ in range(draw.randint(1, 6))]
        texts.append("\n\n".join(lines))
    return texts


@pytest.fixture(scope="module")
def blank(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


EXAMS = [Exam(f"e{place}", THINGS[place % len(THINGS)], COLOURS, 1) for place in range(24)]


def accuracy(subject: Subject, shots: int) -> float:
    return float(MEASURE.score(subject, EXAMS, OPTIONS, 0, lambda done: None)[f"right_at_{shots}"].mean())


def test_a_model_that_lost_reading_examples_is_told_by_the_curve_alone(blank: Subject):
    able, lost = learn(blank, documents(same=True), 150), learn(blank, documents(same=False), 150)
    ones = [
        Document(str(number), text) for number, text in enumerate(documents(True)[:60]) if "\n" not in text
    ]
    cost = [sum(each.nats for each in score_documents(model, ones, 16, None)) for model in (able, lost)]
    assert cost[0] == pytest.approx(cost[1], rel=0.1)  # perplexity without examples hides it
    assert accuracy(able, 4) >= 0.9
    assert accuracy(lost, 4) <= 0.7
    able_area, lost_area = (
        MEASURE.score(model, EXAMS, OPTIONS, 0, lambda done: None)["shots_area"].mean()
        for model in (able, lost)
    )
    assert able_area > lost_area


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
