"""Takes what is held out out of the training text, where documents quote one another.

Documentation repeats itself: the topic `specialnames` holds the whole of `sequence-types`. A split by key
alone would train on held-out text. So a training paragraph goes where it shares 13 words in a row with any
held-out document, the length by which GPT-3's authors called two texts overlapping (arXiv 2005.14165,
appendix C). They cut 200 characters on either side of a match; here a whole paragraph goes, so that no
sentence is left without its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

WORDS_IN_A_ROW = 13

_WORD = re.compile(r"\w+")
_BLANK = re.compile(r"\n[ \t]*\n\s*?(?=[^\n])")


def words_of(text: str) -> list[str]:
    """The words of a text, case folded: the same for two texts that differ in wrapping and punctuation."""
    return _WORD.findall(text.casefold())


def runs_of(words: list[str]) -> Iterable[str]:
    """Every run of 13 words, joined by spaces."""
    return (" ".join(words[i : i + WORDS_IN_A_ROW]) for i in range(len(words) - WORDS_IN_A_ROW + 1))


def without(text: str, held_out: frozenset[str]) -> str:
    """`text` without the paragraphs that share a run of 13 words with `held_out`; "" if none is left.

    Args:
        text: A training document.
        held_out: Every run of 13 words of every held-out document (see `runs_of`).
    """
    paragraphs = _BLANK.split(text)
    while True:
        words = [(word, i) for i, paragraph in enumerate(paragraphs) for word in words_of(paragraph)]
        touched: set[int] = set()
        for start, run in enumerate(runs_of([word for word, _ in words])):
            if run in held_out:
                touched.update(i for _, i in words[start : start + WORDS_IN_A_ROW])
        if not touched:  # a removal makes new neighbours, so look again until nothing is found
            return "\n\n".join(paragraphs).strip("\n")
        paragraphs = [paragraph for i, paragraph in enumerate(paragraphs) if i not in touched]
