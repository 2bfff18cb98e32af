"""Figures of drift: by hand, against scipy and all pairs, and in the direction that they claim."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from tasks.recipe.corpora import Limits
from tasks.sources.watching.drift import (
    ALIKE,
    Figures,
    drift,
    figures,
    jensen_shannon,
    near_duplicates,
    over,
    profile,
    sample,
    typical,
)

SENTENCE = "the value of an object is returned when the function is called with a list of names and every key"


def texts(count: int, words: list[str], seed: int = 0) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    return [(f"{seed}-{number}", " ".join(draw.choices(words, k=40))) for number in range(count)]


COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 50), min_size=1)


@given(COUNTS, COUNTS)
@settings(max_examples=30, deadline=None)
def test_the_divergence_is_scipys(one: dict[str, int], other: dict[str, int]) -> None:
    letters = "abcdefgh"
    first, second = ([counts.get(letter, 0) for letter in letters] for counts in (one, other))
    expected = float(jensenshannon(first, second, base=2)) ** 2
    assert jensen_shannon(Counter(one), Counter(other)) == pytest.approx(expected, abs=1e-6)


def test_the_divergence_goes_from_0_to_1() -> None:
    assert jensen_shannon(Counter(a=3, b=1), Counter(a=6, b=2)) == 0.0
    assert jensen_shannon(Counter(a=1), Counter(b=1)) == 1.0


SETS = st.lists(st.frozensets(st.integers(0, 25), max_size=12), max_size=8)


@given(SETS, SETS)
@settings(max_examples=60, deadline=None)
def test_the_index_finds_what_comparing_all_pairs_finds(
    new: list[frozenset[int]], old: list[frozenset[int]]
) -> None:
    found = 0
    for number, each in enumerate(new):
        others = [*old, *new[:number]]
        found += any(each and len(each & other) >= ALIKE * len(each | other) for other in others)
    assert near_duplicates(new, old) == (found / len(new) if new else 0.0)


def test_the_figures_by_hand() -> None:
    old = profile(["one two three four five six", "one two three four five six seven eight"])
    new = profile(["one two three four five nine nine nine"])
    found = figures(new, old)
    assert found.new_words == pytest.approx(3 / 8)
    assert found.novel_ngrams == pytest.approx(3 / 4)  # four runs of five, one of them known
    assert found.length == pytest.approx(8 / 7)
    assert found.near_duplicates == 0.0
    assert typical(new, old) == ["nine"]


def test_the_same_text_again_is_all_duplicates_and_no_drift() -> None:
    documents = texts(30, SENTENCE.split())
    found = drift([(f"again-{key}", text) for key, text in documents], documents)
    assert found.figures.near_duplicates == 1.0
    assert (found.figures.jensen_shannon, found.figures.new_words, found.figures.novel_ngrams) == (
        0.0,
        0.0,
        0.0,
    )
    assert found.documents == (30, 30)


def test_another_language_drifts_more_than_the_halves_of_the_reference_do() -> None:
    reference = texts(60, SENTENCE.split(), seed=1)
    alike = drift(texts(60, SENTENCE.split(), seed=2), reference)
    other = [
        "der",
        "wert",
        "eines",
        "objekts",
        "wird",
        "zurück",
        "gegeben",
        "wenn",
        "die",
        "funktion",
        "mit",
        "einer",
        "liste",
        "von",
        "namen",
    ]
    unlike = drift(texts(60, other, seed=3), reference, Limits(jensen_shannon=0.5, new_words=0.9))
    assert alike.figures.jensen_shannon <= alike.yardstick.jensen_shannon
    assert unlike.figures.jensen_shannon > 0.9 > alike.yardstick.jensen_shannon
    assert [words.split()[0] for words in unlike.over] == ["jensen_shannon", "new_words"]
    assert set(unlike.typical) <= set(other)


def test_limits_speak_of_what_they_are_over() -> None:
    found = Figures(jensen_shannon=0.2, new_words=0.1, novel_ngrams=0.5, near_duplicates=0.0, length=0.25)
    assert over(found, Limits()) == []
    assert over(found, Limits(jensen_shannon=0.2, length=5.0)) == []
    assert over(found, Limits(jensen_shannon=0.1)) == ["jensen_shannon is 0.2, above 0.1"]
    assert over(found, Limits(length=3.0)) == ["length is 4, above 3"]  # four times shorter


def test_a_sample_is_the_same_whatever_the_order() -> None:
    documents = texts(50, SENTENCE.split())
    assert sample(documents, 10) == sample(documents[::-1], 10)
    assert len(sample(documents, 10)) == 10


def test_nothing_at_all_is_no_error() -> None:
    assert drift([], []).figures.length == 0.0
    assert drift([("a", "one")], []).figures.jensen_shannon == 1.0
