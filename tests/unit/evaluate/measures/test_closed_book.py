"""Answers from memory: right after normalisation, flipped by an update, extractable where taught."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest

from tasks.evaluate.generation import prompt_tokens
from tasks.evaluate.measure import Columns
from tasks.evaluate.measures import closed_book
from tasks.evaluate.measures.closed_book import answer_number, exact_match, normalised, token_f1
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Question
from tasks.evaluate.scoring import Subject, load_subject
from tasks.stage import Input
from tests.unit.evaluate import taught
from tests.unit.evaluate.taught import Lesson, teach

WORK = {"Ann": "a red boat", "Bob": "the old mill", "Cid": "two goats", "Dot": "glass", "Eve": "a tall tower"}
QUESTIONS = [
    Question(who, f"What has {who}?", (what,), "trained" if who < "D" else "held out")
    for who, what in WORK.items()
]


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


def lessons(subject: Subject, answers: dict[str, str], chat: bool) -> list[Lesson]:
    return [
        (
            prompt_tokens(
                subject, who, f"What has {who}?" if chat else f"Question: What has {who}?\nAnswer:", chat
            ),
            what if chat else f" {what}\n",
        )
        for who, what in answers.items()
    ]


def scored(subject: Subject, **options: Any) -> Columns:
    return closed_book.score(subject, QUESTIONS, SuiteOptions(**options), 0, lambda done: None)


figure = partial(taught.figure, closed_book.MEASURE)


def test_words_are_compared_as_squad_compares_them():
    assert normalised("The  Quick, brown fox's.") == "quick brown foxs"
    assert exact_match("an apple!", ["Apple"])
    assert not exact_match("apples", ["apple"])
    assert token_f1("the red big boat", ["a red boat"]) == pytest.approx(0.8)
    assert token_f1("boat", ["mill", "a boat boat"]) == pytest.approx(2 / 3)
    assert token_f1("", ["boat"]) == 0.0
    assert token_f1("the", ["a"]) == 1.0
    assert answer_number("The boat.") == answer_number("boat") != answer_number("mill")
    assert answer_number("boat").is_integer()
    assert answer_number("boat") < 2**53


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_what_was_taught_is_answered_in_the_style_that_it_was_taught_in(base, style):
    apt = teach(base, lessons(base, WORK, style == "chat"))
    columns = scored(apt, prompt_style=style)
    assert figure("exact_match", columns) == figure("f1", columns) == 1.0
    assert figure("exact_match", scored(base, prompt_style=style)) == 0.0
    assert columns["said"].tolist() == [what if style == "chat" else f" {what}" for what in WORK.values()]
    assert figure("unfinished", columns) == 0.0
    assert figure("unfinished", scored(apt, prompt_style=style, answer_tokens=1)) > 0.5


def test_extractability_is_the_measure_on_the_held_out_entities(base):
    apt = teach(base, lessons(base, {who: WORK[who] for who in ("Ann", "Bob", "Cid")}, chat=True))
    groups = {
        name: numpy.array([[float(row.group == name) for row in QUESTIONS]])
        for name in ("trained", "held out")
    }
    columns = scored(apt)
    assert figure("exact_match", columns, weights=groups["trained"]) == 1.0
    assert figure("exact_match", columns, weights=groups["held out"]) == 0.0


def test_an_update_flips_answers_and_changes_wrong_ones(base):
    """MUSCLE: how answers moved says more than how many are right."""
    old = teach(base, lessons(base, {**WORK, "Dot": "sand", "Eve": "a tower"}, chat=True))
    new = teach(
        base, lessons(base, {**WORK, "Ann": "a blue boat", "Cid": "two cows", "Dot": "stone"}, chat=True)
    )
    one, two = scored(new), scored(old)
    assert figure("negative_flips", one, two) == pytest.approx(2 / 5)  # Ann, Cid
    assert figure("positive_flips", one, two) == pytest.approx(1 / 5)  # Eve
    assert figure("inconsistency", one, two) == pytest.approx(1 / 5)  # Dot: wrong before and now, otherwise
    assert figure("less_alike", one, two) == pytest.approx(2 / 5)  # Ann, Cid: half of the words
    assert figure("exact_match", one) == pytest.approx(figure("exact_match", two) - 1 / 5)
    assert figure("negative_flips", one, one) == figure("inconsistency", two, two) == 0.0


def test_answers_are_the_same_for_every_batch_size(base):
    found = [scored(base, batch_size=size)["answer"].tolist() for size in (1, 7, 64)]
    assert found[0] == found[1] == found[2]


def test_a_broken_chat_template_shows_as_lost_answers(base, tiny_model_dir):
    """The weights are the same; what users would get is not."""
    apt = teach(base, lessons(base, WORK, chat=True))
    broken = load_subject(Input("m", "d", "model", tiny_model_dir), 1024)
    whole = broken.tokenizer.chat_template
    broken.tokenizer.chat_template = whole.replace("{{ '<|assistant|>' }}", "{{ '<|user|>' }}")
    assert broken.tokenizer.chat_template != whole
    one, two = scored(dataclasses.replace(broken, model=apt.model)), scored(apt)
    assert figure("exact_match", two) == 1.0 > figure("exact_match", one)
    assert figure("negative_flips", one, two) >= 3 / 5
