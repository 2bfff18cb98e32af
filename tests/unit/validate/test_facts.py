from typing import Any

import pytest

from tasks.recipe.failures import DataInvalid
from tasks.validate.facts import COLUMNS, OWN_COLUMNS, Collector, has_shape, read_rows

U, A, S = "user", "assistant", "system"


def talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


DOCUMENT = {"key": "k", "text": "Some plain text of a document."}
CHAT = {"key": "k", "messages": talk((S, "Be kind."), (U, "What is it?"), (A, "A thing."))}
PAIR = {
    "key": "k",
    "prompt": talk((U, "What is it?")),
    "chosen": talk((A, "Yes.")),
    "rejected": talk((A, "No.")),
}
EXAM = {"key": "k", "question": "Which?", "options": ["a", "b"], "answer": 1}
GOOD: dict[str, dict[str, Any]] = {
    "documents": DOCUMENT,
    "chats": CHAT,
    "pairs": PAIR,
    "exams": EXAM,
    "facts": {"key": "k", "prompt": "The capital of Peru is", "answer": "Lima"},
    "questions": {"key": "k", "question": "Who?", "answers": ["Ann", "Ann Lee"]},
    "programs": {"key": "k", "prompt": "def f():\n", "tests": "assert f()"},
    "requests": {"key": "k", "prompt": "Open it.", "refuse": True},
    "prompts": {"key": "k", "prompt": "The driver said"},
}
MORE: dict[str, dict[str, Any]] = {
    "facts": {"aliases": ["Lima, Peru"], "relation": "capital"},
    "programs": {"entry_point": "f"},
}


def facts(kind: str, *rows: Any) -> dict[str, int | None]:
    """The facts of the last of some rows."""
    collector = Collector(kind)
    return [collector.facts_of(row)[1] for row in rows][-1]


@pytest.mark.parametrize("kind", list(GOOD))
def test_a_good_row_has_nothing_wrong(kind):
    found = facts(kind, GOOD[kind])
    wrong = {name: value for name, value in found.items() if name not in ("characters", "options", "answers")}
    assert set(found) == {*COLUMNS, *OWN_COLUMNS[kind]}
    assert set(wrong.values()) == {0}


@pytest.mark.parametrize(
    ("kind", "changed", "fact", "value"),
    [
        ("documents", {"text": " \n\t"}, "blank", 1),
        ("documents", {"text": "caf\ufffd and \ufffd"}, "replacement_characters", 2),
        ("documents", {"text": "cafÃ© and Â° and donâ€™t"}, "mojibake", 3),
        ("documents", {"text": "ðŸ˜€ ï»¿"}, "mojibake", 2),
        ("documents", {"text": "café, 25 °C, NÃO, CÂMARA, “quoted” – fine 😀"}, "mojibake", 0),
        ("documents", {"text": "a\x00b\x1bc\x7f\x9d"}, "control_characters", 4),
        ("documents", {"text": "a\tb\r\nc\x0cd"}, "control_characters", 0),
        ("documents", {"text": "12345"}, "characters", 5),
        ("chats", {"messages": talk((U, "?"), (U, "?"), (A, "x"))}, "disorder", 1),
        ("chats", {"messages": talk((A, "x"), (U, "?"), (A, "x"))}, "disorder", 1),
        ("chats", {"messages": talk((U, "?"))}, "disorder", 1),
        ("chats", {"messages": talk((U, "?"), (S, "x"), (A, "x"))}, "disorder", 1),
        ("chats", {"messages": talk((S, "x"))}, "disorder", 1),
        ("chats", {"messages": talk((U, "?"), (A, "x"), (U, "?"), (A, "x"))}, "disorder", 0),
        ("chats", {"messages": talk((U, " "), (A, "x"))}, "blank", 1),
        ("chats", {"messages": talk((U, "?"), (A, "\n"))}, "blank_answers", 1),
        ("pairs", {"prompt": talk((U, "?"), (A, "x"))}, "disorder", 1),
        ("pairs", {"chosen": talk((U, "x"))}, "disorder", 1),
        ("pairs", {"rejected": talk((A, "x"), (A, "x"))}, "disorder", 1),
        ("pairs", {"prompt": talk((U, ""))}, "blank", 1),
        ("pairs", {"chosen": talk((A, "")), "rejected": talk((A, " "))}, "blank_answers", 2),
        ("pairs", {"rejected": talk((A, "Yes."))}, "same_answers", 1),
        ("exams", {"question": ""}, "blank", 1),
        ("exams", {"options": ["a"], "answer": 0}, "options", 1),
        ("exams", {"options": ["a", " "]}, "blank_options", 1),
        ("exams", {"options": ["a", "b", "a "]}, "same_options", 1),
        ("exams", {"answer": 2}, "answer_outside", 1),
        ("exams", {"answer": -1}, "answer_outside", 1),
        ("facts", {"prompt": " "}, "blank", 1),
        ("facts", {"answer": "", "aliases": ["x", " "]}, "blank_answers", 2),
        ("questions", {"question": ""}, "blank", 1),
        ("questions", {"answers": []}, "answers", 0),
        ("questions", {"answers": ["x", " "]}, "blank_answers", 1),
        ("programs", {"prompt": ""}, "blank", 1),
        ("programs", {"tests": "\n"}, "blank_tests", 1),
        ("programs", {"tests": "assert f("}, "broken_tests", 1),
        ("requests", {"prompt": "\t"}, "blank", 1),
        ("prompts", {"prompt": ""}, "blank", 1),
    ],
)
def test_what_is_wrong_is_counted(kind, changed, fact, value):
    assert facts(kind, GOOD[kind] | changed)[fact] == value


@pytest.mark.parametrize("kind", list(GOOD))
def test_a_row_that_repeats_an_earlier_one_is_a_copy_whatever_its_key(kind):
    assert facts(kind, GOOD[kind], GOOD[kind] | {"key": "other"})["copies"] == 1


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("documents", {"key": "k"}),
        ("documents", {"key": "k", "text": 3}),
        ("documents", {"key": 3, "text": "x"}),
        ("documents", {"key": "k", "text": "x", "more": 1}),
        ("documents", "text"),
        ("documents", None),
        ("chats", {"key": "k", "messages": []}),
        ("chats", {"key": "k", "messages": ["hello"]}),
        ("chats", {"key": "k", "messages": [{"role": "wizard", "content": "x"}]}),
        ("chats", {"key": "k", "messages": [{"role": "user"}]}),
        ("pairs", PAIR | {"chosen": "Yes."}),
        ("exams", EXAM | {"answer": "b"}),
        ("exams", EXAM | {"answer": True}),
        ("exams", EXAM | {"options": "ab"}),
        ("exams", EXAM | {"options": [1, 2]}),
        ("facts", GOOD["facts"] | {"aliases": "Lima"}),
        ("facts", GOOD["facts"] | {"entry_point": "f"}),
        ("questions", GOOD["questions"] | {"answers": "Ann"}),
        ("programs", GOOD["programs"] | {"entry_point": None}),
        ("requests", GOOD["requests"] | {"refuse": 1}),
        ("prompts", GOOD["prompts"] | {"group": 3}),
    ],
)
def test_a_row_without_its_kinds_shape_tells_only_that(kind, row):
    assert not has_shape(row, kind)
    found = facts(kind, row)
    assert found.pop("bad_shape") == 1
    assert set(found.values()) == {None}


@pytest.mark.parametrize("kind", list(GOOD))
def test_what_a_row_may_have_beside_is_no_fault(kind):
    assert has_shape(GOOD[kind] | MORE.get(kind, {}) | {"group": "north"}, kind)


@pytest.mark.parametrize("line", [b'{"key": "k", "te\n', b'{"key": "caf\xe9"}\n', b"\n"])
def test_a_line_that_cannot_be_read_is_named_without_its_text(tmp_path, line):
    (tmp_path / "rows.jsonl").write_bytes(b'{"key": "fine"}\n' + line)
    with pytest.raises(DataInvalid, match=r"dataset 'news', rows\.jsonl:2: not a JSON object") as caught:
        list(read_rows(tmp_path / "rows.jsonl", "news"))
    assert "caf" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataInvalid, match="dataset 'news' has no file"):
        list(read_rows(tmp_path / "rows.jsonl", "news"))
