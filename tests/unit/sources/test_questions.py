import pytest

from tasks.sources.docstrings import Docstring
from tasks.sources.questions import ask, chats, pairs, summary_of


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("Return the square root of x.\n\nMore.", "Return the square root of x."),
        ("Wrapped over\ntwo lines of text\n\nMore.", "Wrapped over two lines of text"),
        ("First sentence of this. Second one here.", "First sentence of this."),
        ("sqrt(x) -> float\n\nReturn the square root of x.", "Return the square root of x."),
        ("Too short.", ""),
        ("long " * 100, ""),
        ("f(x) -> y", ""),
    ],
)
def test_summary(text, summary):
    assert summary_of(text) == summary


def some(number: int = 60) -> list[Docstring]:
    return [
        Docstring(f"m.f{i}", "function", f"m.f{i}(a)", f"Return the value of number {i} of all.")
        for i in range(number)
    ]


def test_all_ways_of_asking_occur_and_answer_from_the_docstring():
    asked = [(one, ask(one)) for one in some()]
    assert {found[0] for _, found in asked if found} == {"purpose", "call", "name"}
    for one, found in asked:
        assert found is not None
        what, question, answer = found
        assert (one.key in question) == (what != "name")
        assert (one.key in answer) == (what != "purpose")


def test_a_docstring_without_a_summary_makes_no_question():
    assert list(chats([Docstring("m", "module", "", "Short.")])) == []


def test_a_chat_is_a_question_and_its_answer():
    (chat,) = chats(some(1))
    assert [message["role"] for message in chat["messages"]] == ["user", "assistant"]
    assert chat["key"] == "m.f0"


def test_the_rejected_answer_is_right_for_another_of_the_others_and_never_here():
    everything = some()
    others = everything[:30]
    answers = {found[2] for one in others if (found := ask(one))}
    for row in pairs(everything, others):
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert rejected in answers
        assert rejected != chosen
