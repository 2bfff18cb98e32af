"""Finds exam questions whose text stands in training text.

An exam row leaks where training text holds 13 of its words in a row, or all its words in a row where it has
fewer: the criterion of GPT-3 (arXiv 2005.14165, appendix C). Looked at are the question with its right answer
behind it. Words are compared case folded and without punctuation. The passages of the exams are held in
memory; training text of any size streams past them.

This is written apart from the overlap filter of tasks/sources on purpose: a check that shares code with what
it checks shares its mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+")


class PassageIndex:
    """The passages of exams, by runs of words."""

    def __init__(self, words_in_a_row: int) -> None:
        """Begin an empty index.

        Args:
            words_in_a_row: How many equal words in a row make an overlap.
        """
        self.words_in_a_row = words_in_a_row
        self._rows_of_run: dict[int, dict[str, set[int]]] = {}

    def add(self, row: int, text: str) -> None:
        """Add the text of exam row number `row`."""
        words = _words(text)
        length = min(self.words_in_a_row, len(words))
        for run in _runs(words, length):
            self._rows_of_run.setdefault(length, {}).setdefault(run, set()).add(row)

    def found_in(self, texts: Iterable[Sequence[str]]) -> set[int]:
        """The exam rows of which a passage stands in one of `texts`, the texts of one row put together."""
        found: set[int] = set()
        for parts in texts:
            words = [word for text in parts for word in _words(text)]
            for length, rows_of_run in self._rows_of_run.items():
                for run in _runs(words, length):
                    found |= rows_of_run.get(run, set())
        return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: list[str], length: int) -> Iterable[str]:
    """Every run of `length` words."""
    if length == 0:
        return ()
    return (" ".join(words[i : i + length]) for i in range(len(words) - length + 1))
