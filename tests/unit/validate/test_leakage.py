import pytest

from tasks.validate.leakage import PassageIndex

PASSAGE = "Which planet is the largest one of all that circle around our own sun today? Jupiter"


def found(*texts: str, passage: str = PASSAGE, words: int = 13) -> set[int]:
    index = PassageIndex(words)
    index.add(
        1, "An entirely different question that has more than thirteen words and stands nowhere else at all."
    )
    index.add(2, passage)
    return index.found_in([texts])


@pytest.mark.parametrize(
    "text",
    [
        PASSAGE,
        f"Before it. {PASSAGE} After it.",
        PASSAGE.upper().replace(" ", "\n  ").replace("?", " - "),
        " ".join(PASSAGE.split()[:13]),
        " ".join(PASSAGE.split()[-13:]),
    ],
)
def test_thirteen_words_in_a_row_are_found_whatever_case_and_wrapping(text):
    assert found(text) == {2}


@pytest.mark.parametrize("text", ["", " ".join(PASSAGE.split()[:12]), " ".join(reversed(PASSAGE.split()))])
def test_less_is_not(text):
    assert found(text) == set()


def test_a_passage_over_two_texts_of_one_row_is_found():
    question, answer = PASSAGE.split("? ")
    assert found(question, answer) == {2}


def test_a_short_passage_is_found_only_as_a_whole():
    assert found("So what is two and two? Four, they say.", passage="What is two and two? Four") == {2}
    assert found("So what is two and two? Five, they say.", passage="What is two and two? Four") == set()


def test_the_number_of_words_can_be_chosen():
    text = " ".join(PASSAGE.split()[:8])
    assert found(text, words=8) == {2}
    assert found(text, words=9) == set()


def test_rows_that_share_a_passage_are_all_found():
    index = PassageIndex(5)
    for row in (1, 2):
        index.add(row, "one two three four five")
    assert index.found_in([["one two three four five"]]) == {1, 2}
