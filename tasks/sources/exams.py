"""Multiple choice made from held-out documents: which of four continuations is the passage's own?

The wrong options are continuations of other documents' passages, of similar length, so that neither length
nor style gives the answer away. Passages that name each other's words are not filtered: choosing by topic is
part of what a model learns from a text. This follows HellaSwag (arXiv 1905.07830) in form; its wrong endings
are written by a model and filtered against one, ours are real text, so that making them needs no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.recipe.failures import DataInvalid
from tasks.sources.splits import number_of

OPTIONS = 4
PASSAGE = range(106, 330)
"""Characters of a passage that is worth asking about; longer text is cut into several."""
CONTINUATION = range(60, 150)
NEAREST = 12
"""Wrong options are drawn from so many of those nearest in length."""

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
_CODE = re.compile(r"[-=+~]{4}|\bdef \w+\(|\w = \w")


@dataclass(frozen=True)
class Passage:
    """A piece of a document cut in two: `key` is the document's, with a number."""

    key: str
    document: str
    start: str
    continuation: str


def make(documents: Mapping[str, str], title: str) -> Iterator[dict[str, Any]]:
    """Rows of kind exams from held-out documents.

    Args:
        documents: Key -> text of the held-out documents.
        title: What the documents are, as the question names it.

    Raises:
        DataInvalid: Too few documents for three wrong options.
    """
    passages = [passage for key, text in documents.items() for passage in passages_of(key, text)]
    for passage in passages:
        wrong = _wrong_options(passage, passages, title)
        answer = number_of("answer:" + passage.key) % OPTIONS
        yield {
            "key": passage.key,
            "question": f"How does this passage of {title} go on?\n\n{passage.start}",
            "options": [*wrong[:answer], passage.continuation, *wrong[answer:]],
            "answer": answer,
        }


def passages_of(key: str, text: str) -> Iterator[Passage]:
    """The passages of a document: its paragraphs of prose, long ones cut at the ends of sentences."""
    seen: set[str] = set()
    for paragraph in re.split(r"\n\s*\n", text):
        for piece in _pieces(" ".join(paragraph.split())) if _is_prose(paragraph) else ():
            start, continuation = _cut(piece)
            if continuation and piece not in seen:
                seen.add(piece)
                yield Passage(f"{key}#{len(seen)}", key, start, continuation)


def _is_prose(paragraph: str) -> bool:
    """Whether a paragraph is sentences, not grammar, a table, a console session or code."""
    letters = sum(character.isalpha() or character.isspace() for character in paragraph)
    code = "::=" in paragraph or ">>>" in paragraph or _CODE.search(paragraph)
    return not code and letters >= 0.8 * len(paragraph)


def _pieces(text: str) -> Iterator[str]:
    """Neighbouring sentences of `text` put together to pieces of PASSAGE characters."""
    piece = ""
    for sentence in _SENTENCE_END.split(text):
        piece = f"{piece} {sentence}".strip()
        if len(piece) >= PASSAGE.start:
            yield piece[: PASSAGE.stop].rsplit(" ", 1)[0] if len(piece) > PASSAGE.stop else piece
            piece = ""


def _cut(piece: str) -> tuple[str, str]:
    """A piece in two at a space, the second part about two fifths of it; ("", "") where that fails."""
    goal = min(max(len(piece) * 2 // 5, CONTINUATION.start + 5), CONTINUATION.stop - 15)
    at = piece.rfind(" ", 0, len(piece) - goal + 1)
    start, continuation = piece[: max(at, 0)], piece[at + 1 :]
    return (start, continuation) if len(start) >= 40 and len(continuation) in CONTINUATION else ("", "")


def _wrong_options(passage: Passage, passages: list[Passage], title: str) -> list[str]:
    length = len(passage.continuation)
    others: dict[str, Passage] = {}
    for other in passages:
        if other.document != passage.document and other.continuation != passage.continuation:
            others.setdefault(other.continuation, other)
    nearest = sorted(others.values(), key=lambda other: (abs(len(other.continuation) - length), other.key))
    chosen = sorted(nearest[:NEAREST], key=lambda other: number_of(f"{passage.key} {other.key}"))
    if len(chosen) < OPTIONS - 1:
        raise DataInvalid(f"{title}: too few held-out passages for an exam ({len(passages)})")
    return [other.continuation for other in chosen[: OPTIONS - 1]]
