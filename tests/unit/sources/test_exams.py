import pytest

from tasks.recipe.failures import DataInvalid
from tasks.sources.exams import make, passages_of

WORDS = [
    "lorem",
    "ipsum",
    "dolor",
    "amet",
    "tempor",
    "incididunt",
    "labore",
    "magna",
    "aliqua",
    "veniam",
    "nostrud",
    "ullamco",
    "laboris",
    "nisi",
]


def prose(seed: int) -> str:
    ending = "xyzwv"[seed % 5]
    words = (WORDS[(seed * 5 + i * i) % len(WORDS)] + ending * (i % 2) for i in range(40))
    return " ".join(words) + "."


DOCUMENTS = {f"d{seed}": prose(seed) for seed in range(6)}


def test_the_answer_is_the_passages_own_continuation():
    passages = {passage.key: passage for key, text in DOCUMENTS.items() for passage in passages_of(key, text)}
    rows = list(make(DOCUMENTS, "the tests"))
    assert len(rows) == len(passages) > 3
    for row in rows:
        passage = passages[row["key"]]
        assert row["options"][row["answer"]] == passage.continuation
        assert row["question"].endswith(passage.start)
        assert f"{passage.start} {passage.continuation}" in DOCUMENTS[passage.document]


def test_wrong_options_come_from_other_documents():
    for row in make(DOCUMENTS, "the tests"):
        own = DOCUMENTS[row["key"].partition("#")[0]]
        wrong = [option for i, option in enumerate(row["options"]) if i != row["answer"]]
        assert len(set(row["options"])) == 4
        assert not [option for option in wrong if option in own]


@pytest.mark.parametrize(
    "text",
    [
        "Too short to ask about.",
        "expression ::= term plus term and many more words that would be long enough to make a passage " * 2,
        ">>> print(1) and many more words that would be long enough to make a passage of prose, were it " * 2,
        "| a | 1234567 | b | 7654321 | 1234567 | 9999999 | " * 5,
    ],
)
def test_what_is_no_prose_makes_no_passage(text):
    assert list(passages_of("d", text)) == []


def test_too_few_documents_are_refused():
    with pytest.raises(DataInvalid, match="too few held-out passages"):
        list(make({key: DOCUMENTS[key] for key in ("d0", "d1")}, "the tests"))
