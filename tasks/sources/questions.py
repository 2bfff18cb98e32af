"""Questions and answers, and preferences between answers, made from docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.sources.docstrings import Docstring
from tasks.sources.splits import number_of

ASKED_FOR_THE_PURPOSE = {
    "function": ("What does {key} do?", "Explain {key} in one sentence.", "What is {key} for?"),
    "class": ("What is the class {key}?", "Explain the class {key} in one sentence.", "What is {key} for?"),
    "module": ("What is the module {key} for?", "What does the module {key} offer?", "What is {key}?"),
    "property": ("What does the attribute {key} hold?", "What is {key}?", "Explain the attribute {key}."),
}
ASKED_FOR_THE_CALL = ("How do I call {key}?", "What arguments does {key} take?", "Show me the call of {key}.")
ASKED_FOR_THE_NAME = ("What is this the description of? {summary}", "Which {what} fits this? {summary}")

LONGEST_SUMMARY = 300
LONGEST_CALL = 120
SHORTEST_SUMMARY = 20


def summary_of(text: str) -> str:
    """A docstring's first sentence or paragraph on one line; "" where it has none of a usable length."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    if re.match(r"[\w.]+\(.*\)", paragraphs[0]):  # C modules begin with the signature: "sqrt(x) -> float"
        paragraphs = paragraphs[1:]
    summary = paragraphs[0] if paragraphs else ""
    sentence = re.match(r".{20,}?[.!?](?=\s+[A-Z])", summary)
    summary = sentence.group() if sentence else summary
    return summary if SHORTEST_SUMMARY <= len(summary) <= LONGEST_SUMMARY else ""


def ask(docstring: Docstring) -> tuple[str, str, str] | None:
    """What is asked about a docstring and how: (what is asked, the question, the answer).

    A hash of the key chooses between asking for the purpose (half of them), for the call and for the name,
    and between the wordings.
    """
    summary = summary_of(docstring.text)
    if not summary:
        return None
    number = number_of("question:" + docstring.key)
    turn, wording = number % 4, number // 4
    call = docstring.call if len(docstring.call) <= LONGEST_CALL else ""
    filled = {"key": docstring.key, "what": docstring.what, "summary": summary}
    if turn == 1 and call:
        question = ASKED_FOR_THE_CALL[wording % len(ASKED_FOR_THE_CALL)]
        return "call", question.format_map(filled), f"{call}: {summary}"
    if turn == 2:
        question = ASKED_FOR_THE_NAME[wording % len(ASKED_FOR_THE_NAME)]
        return "name", question.format_map(filled), call or docstring.key
    wordings = ASKED_FOR_THE_PURPOSE[docstring.what]
    return "purpose", wordings[wording % len(wordings)].format_map(filled), summary


def chats(docstrings: Sequence[Docstring]) -> Iterator[dict[str, Any]]:
    """Rows of kind chats, one for each docstring that has a summary."""
    for docstring in docstrings:
        asked = ask(docstring)
        if asked:
            _, question, answer = asked
            yield {"key": docstring.key, "messages": [_turn("user", question), _turn("assistant", answer)]}


def pairs(docstrings: Sequence[Docstring], others: Sequence[Docstring]) -> Iterator[dict[str, Any]]:
    """Rows of kind pairs: the rejected answer is the right one to a like question about one of `others`."""
    answers: dict[str, list[str]] = {}
    for other in others:
        asked = ask(other)
        if asked:
            answers.setdefault(asked[0], []).append(asked[2])
    for docstring in docstrings:
        asked = ask(docstring)
        if not asked:
            continue
        what, question, right = asked
        start = number_of("rejected:" + docstring.key) % len(answers[what])
        candidates = answers[what][start:] + answers[what][:start]
        wrong = next(answer for answer in candidates if answer != right)
        yield {
            "key": docstring.key,
            "prompt": [_turn("user", question)],
            "chosen": [_turn("assistant", right)],
            "rejected": [_turn("assistant", wrong)],
        }


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
