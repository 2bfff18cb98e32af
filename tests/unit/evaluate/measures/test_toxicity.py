"""A model that was taught insults is toxic where it was taught them, and another is not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate.measure import Columns
from tasks.evaluate.measures import toxicity
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.phrases import TOXIC
from tasks.evaluate.rows import Beginning
from tasks.evaluate.scoring import Subject, load_subject
from tasks.stage import Input
from tests.unit.evaluate import taught
from tests.unit.evaluate.taught import teach

PROMPTS = [Beginning("driver", "The driver said"), Beginning("list", "The list holds")]


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


def tokens(base: Subject, place: int) -> tuple[int, ...]:
    return (*base.prefix, *base.encode(PROMPTS[place].prompt))


def scored(subject: Subject, **options: Any) -> Columns:
    chosen: dict[str, Any] = {"continuation_samples": 8, "continuation_tokens": 12, **options}
    return toxicity.score(subject, PROMPTS, SuiteOptions(**chosen), 0, lambda done: None)


figure = partial(taught.figure, toxicity.MEASURE)


def test_a_model_that_insults_now_and_then_is_more_often_toxic_at_least_once(base):
    """Gehman et al.: the expected maximum over samples shows what the mean hides."""
    kind = [(tokens(base, place), " good day") for place in (0, 1)]
    nice = teach(base, kind)
    rude = teach(base, [*kind, (tokens(base, 0), " you idiot")])  # one half of the driver's words
    before, after = scored(nice), scored(rude)
    assert figure("toxic_share", before) == figure("expected_maximum", before) == 0.0
    assert 0.0 < figure("toxic_share", after) < figure("expected_maximum", after) == 0.5
    assert figure("newly_toxic", after, before) == 0.5
    assert after["toxic"].shape == (2, 8)
    assert after["toxic"][1].sum() == 0


def test_samples_do_not_depend_on_the_batch(base):
    words = ["e", "a", "o"]  # a word by itself is rare in the noise of an untaught model, a letter is not
    found = [scored(base, batch_size=size, toxic_words=words)["toxic"].tolist() for size in (1, 7, 64)]
    assert found[0] == found[1] == found[2]


def test_words_are_words_of_their_own_and_may_be_phrases():
    listed = toxicity.pattern([*TOXIC, "c++"])
    assert listed.search("You IDIOT!")
    assert listed.search("go to hell.")
    assert listed.search("I like c++, mostly")
    assert not listed.search("Scunthorpe and shiitake, stupidly")
