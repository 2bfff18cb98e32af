import functools
import re
from typing import Any

import pytest

from tasks.recipe.failures import ConfigInvalid
from tasks.sources import pydocs
from tasks.sources.rows import texts_of, trouble_with
from tasks.sources.splits import is_held_out

CORPORA = ("language-reference", "library-docstrings")


@functools.cache
def rows(name: str, split: str) -> list[dict[str, Any]]:
    return list(pydocs.rows(name, split, {}))


def words(text: str) -> str:
    return " " + " ".join(re.findall(r"\w+", text.casefold())) + " "


@pytest.mark.parametrize("name", list(pydocs.DATASETS))
def test_every_row_has_its_kinds_shape_and_its_own_key(name):
    kind = pydocs.DATASETS[name][0]
    found = rows(name, "all")
    assert [trouble for row in found if (trouble := trouble_with(kind, row))] == []
    assert len({row["key"] for row in found}) == len(found)


@pytest.mark.parametrize("name", [*CORPORA, "chats", "pairs"])
def test_train_and_heldout_share_no_key_and_follow_the_hash(name):
    train = {row["key"] for row in rows(name, "train")}
    heldout = {row["key"] for row in rows(name, "heldout")}
    assert not train & heldout
    assert train | heldout <= {row["key"] for row in rows(name, "all")}
    assert all(is_held_out(key) for key in heldout)
    assert not any(is_held_out(key) for key in train)


@pytest.mark.parametrize(("name", "count"), [("language-reference", 78), ("library-docstrings", 4309)])
def test_size_and_held_out_share(name, count):
    def size(split: str) -> int:
        return sum(len(row["text"]) for row in rows(name, split))

    assert len(rows(name, "all")) == pytest.approx(count, rel=0.05)
    assert 0.05 < size("heldout") / size("all") < 0.20
    assert size("train") > 0.8 * size("all")  # what is taken out for quoting held-out text is little


def test_no_thirteen_words_in_a_row_of_held_out_text_are_trained_on():
    # written apart from tasks/sources/overlap.py, which this checks; chats hold only parts of these texts
    trained_on: set[str] = set()
    for name in CORPORA:
        for row in rows(name, "train"):
            found = words(row["text"]).split()
            trained_on.update(" ".join(found[i : i + 13]) for i in range(len(found) - 12))
    for name in CORPORA:
        for row in rows(name, "heldout"):
            found = words(row["text"]).split()
            assert not [i for i in range(len(found) - 12) if " ".join(found[i : i + 13]) in trained_on], row[
                "key"
            ]


@pytest.mark.parametrize("name", ["chats", "pairs"])
def test_answers_are_parts_of_training_documents(name):
    documents = {row["key"]: words(row["text"]) for row in rows("library-docstrings", "train")}
    everything = "".join(documents.values())
    for row in rows(name, "train")[::25]:
        assert row["key"] in documents
        for text in texts_of(pydocs.DATASETS[name][0], row)[1:]:
            summary = text.partition("): ")[2] or text
            if " " in summary and "(" not in summary:
                assert words(summary) in everything


def test_rejected_answers_never_come_from_held_out_functions():
    right = {row["key"]: row["chosen"][0]["content"] for row in rows("pairs", "train")}
    assert {row["rejected"][0]["content"] for row in rows("pairs", "all")} <= set(right.values())


@pytest.mark.parametrize("name", CORPORA)
def test_exams_are_many_fit_a_small_model_and_come_from_held_out_documents(name):
    exam = rows(f"exams/{name}", "heldout")
    documents = {row["key"]: " ".join(row["text"].split()) for row in rows(name, "heldout")}
    assert len(exam) >= 150
    for row in exam:
        document = documents[row["key"].rpartition("#")[0]]
        start = row["question"].partition("\n\n")[2]
        assert f"{start} {row['options'][row['answer']]}" in document
        assert 100 <= len(row["question"]) <= 300
        assert all(60 <= len(option) <= 200 for option in row["options"])
        assert len(set(row["options"])) == 4
    answers = [row["answer"] for row in exam]
    assert all(answers.count(position) > len(answers) * 0.15 for position in range(4))


def test_length_does_not_give_the_answer_away():
    for name in CORPORA:
        exam = rows(f"exams/{name}", "heldout")
        longest = sum(max(row["options"], key=len) == row["options"][row["answer"]] for row in exam)
        assert longest / len(exam) < 0.4


def test_exams_have_no_training_split():
    with pytest.raises(ConfigInvalid, match="held-out documents only"):
        list(pydocs.rows("exams/language-reference", "train", {}))


def test_options_are_refused():
    with pytest.raises(ConfigInvalid, match="takes no options; remove text_field"):
        pydocs.rows("chats", "train", {"text_field": "x"})
