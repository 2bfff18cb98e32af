"""A model that reads its whole context finds the needle anywhere, another misses it where it is far."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy
import pytest

from tasks.evaluate.measure import Columns
from tasks.evaluate.measures import retrieval
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Document
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import ConfigInvalid
from tasks.stage import Input
from tests.conftest import tiny_texts
from tests.unit.evaluate.taught import Copier

DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(tiny_texts(6, seed=9))]


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


def scored(
    subject: Subject, rows: list[Document] = DOCUMENTS, characters: int = 300, **options: Any
) -> Columns:
    chosen = SuiteOptions(haystack_characters=characters, **options)
    return retrieval.score(subject, rows, chosen, 0, lambda done: None)


def figures(columns: Columns) -> dict[str, float]:
    weights = numpy.ones((1, len(columns["found"])))
    return {each.name: float(each.of(columns, weights)[0]) for each in retrieval.MEASURE.figures}


def copier(base: Subject, window: int) -> Subject:
    return dataclasses.replace(base, model=Copier(300, window))


def test_a_short_memory_shows_as_a_fall_with_depth_and_length(base):
    """Needle in a haystack: what is out of reach is found by chance only, what is near always."""
    whole, short = figures(scored(copier(base, 1000))), figures(scored(copier(base, 60)))
    assert set(whole.values()) == {1.0}
    assert short["at_100"] == 1.0 > short["at_50"] > 0
    assert short["short"] > short["long"]
    assert short["worst"] <= min(short["at_0"], short["long"]) < 0.6
    assert short["found"] < whole["found"]


def test_a_model_that_learned_nothing_finds_a_tenth(base):
    assert figures(scored(base))["found"] < 0.35


def test_the_needle_stands_at_its_depth_and_only_there():
    asked = retrieval.question("one two three four", 0.5, "amber", ["11111", "22222"], "k", 1)
    assert asked.question == "one two The code of amber is 22222. three four The code of amber is"
    assert (asked.options, asked.answer) == (("11111", "22222"), 1)


def test_texts_are_cut_behind_a_word_and_go_on_with_the_next_document():
    texts = ["alpha beta", "gamma delta", "epsilon"]
    assert retrieval.haystack(texts, 1, 14) == "gamma delta"
    assert retrieval.haystack(texts, 2, 20) == "epsilon alpha beta"
    with pytest.raises(ConfigInvalid, match="haystack_characters"):
        retrieval.haystack(texts, 0, 100)


def test_texts_longer_than_the_window_are_refused_not_cut(base):
    with pytest.raises(ConfigInvalid, match="haystack_characters 2000 gives texts of"):
        scored(base, rows=DOCUMENTS * 5, characters=2000)


def test_the_seed_chooses_the_needles_and_the_batch_changes_nothing(base):
    found = [
        scored(base, rows=DOCUMENTS[:4], characters=200, batch_size=size)["right"].tolist()
        for size in (1, 64)
    ]
    assert found[0] == found[1]
