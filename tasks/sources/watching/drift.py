"""How a slice differs from what a model was trained on: five figures that a person can check by hand.

All of them count words, so they take seconds and no model. Each comes with a yardstick: the same figure
between two halves of the reference itself, since even two halves of one corpus are not alike.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from tasks.recipe.corpora import Limits
from tasks.sources.overlap import words_of
from tasks.sources.splits import number_of

MOST_DOCUMENTS = 5000
"""Documents that are looked at of each side: those with the smallest hashes of their keys."""

RUN = 5
"""Words in a run whose novelty is counted, and in a shingle that near duplicates share."""

ALIKE = 0.8
"""Jaccard similarity of the shingles of two documents that count as near duplicates (Lee et al. 2022, arXiv
2107.06499, who deduplicate C4 at 0.8)."""

MOST_WORDS_PER_DOCUMENT = 5000


@dataclass
class Profile:
    """What the figures are computed from.

    Attributes:
        words: How often each word occurs.
        runs: Every run of five words.
        lengths: Words of each document.
        shingles: Of each document, its runs of five words as numbers.
    """

    words: Counter[str] = field(default_factory=Counter)
    runs: set[int] = field(default_factory=set)
    lengths: list[int] = field(default_factory=list)
    shingles: list[frozenset[int]] = field(default_factory=list)


class Figures(BaseModel):
    """Drift of one text against another.

    Attributes:
        jensen_shannon: Divergence of the distributions of words, in bits, 0 to 1 (Lin 1991).
        new_words: Share of the words, counted as often as they occur, that the reference never uses.
        novel_ngrams: Share of the distinct runs of five words that the reference never has (as McCoy et al.
            2023, arXiv 2111.09509, count novelty of generated text).
        near_duplicates: Share of documents whose shingles resemble those of an earlier one of the text, or
            of one of the reference, by 0.8 or more.
        length: Median words of a document, divided by the reference's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    jensen_shannon: float
    new_words: float
    novel_ngrams: float
    near_duplicates: float
    length: float


class Drift(BaseModel):
    """What is told of a slice.

    Attributes:
        figures: Of the slice against the reference.
        yardstick: Of one half of the reference against the other.
        typical: Words that the slice uses much more than the reference, the most telling first.
        documents: Looked at, of the slice and of the reference.
        over: The limits that it is over, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    figures: Figures
    yardstick: Figures
    typical: list[str]
    documents: tuple[int, int]
    over: list[str] = []


def drift(
    slice_: Iterable[tuple[str, str]], reference: Iterable[tuple[str, str]], limits: Limits | None = None
) -> Drift:
    """Compare a slice with a reference.

    Args:
        slice_: Key and text of its documents.
        reference: Of what the model was trained on.
        limits: Above which it is worth telling.
    """
    new, old = sample(slice_), sample(reference)
    one, other = profile(text for _, text in new), profile(text for _, text in old)
    halves = [profile(text for key, text in old if _half(key) == which) for which in (True, False)]
    found = figures(one, other)
    return Drift(
        figures=found,
        yardstick=figures(*halves),
        typical=typical(one, other),
        documents=(len(new), len(old)),
        over=over(found, limits) if limits else [],
    )


def sample(documents: Iterable[tuple[str, str]], most: int = MOST_DOCUMENTS) -> list[tuple[str, str]]:
    """At most so many documents, always the same ones: those with the smallest hashes of their keys."""
    held = sorted(documents, key=lambda each: number_of(each[0]))
    return held[:most]


def profile(texts: Iterable[str]) -> Profile:
    """Count a text."""
    found = Profile()
    for text in texts:
        words = words_of(text)[:MOST_WORDS_PER_DOCUMENT]
        shingles = frozenset(_shingles(words))
        found.words.update(words)
        found.runs |= shingles
        found.lengths.append(len(words))
        found.shingles.append(shingles)
    return found


def figures(new: Profile, old: Profile) -> Figures:
    """Every figure of `new` against `old`."""
    spoken = sum(new.words.values())
    unknown = sum(count for word, count in new.words.items() if word not in old.words)
    before = _median(old.lengths)
    return Figures(
        jensen_shannon=round(jensen_shannon(new.words, old.words), 6),
        new_words=round(unknown / spoken, 6) if spoken else 0.0,
        novel_ngrams=round(len(new.runs - old.runs) / len(new.runs), 6) if new.runs else 0.0,
        near_duplicates=round(near_duplicates(new.shingles, old.shingles), 6),
        length=round(_median(new.lengths) / before, 6) if before else 0.0,
    )


def jensen_shannon(one: Counter[str], other: Counter[str]) -> float:
    """The Jensen-Shannon divergence of two distributions of words, in bits: 0 if equal, 1 if disjoint."""
    first, second = sum(one.values()), sum(other.values())
    if not first or not second:
        return 0.0 if first == second else 1.0
    divergence = 0.0
    for word in one.keys() | other.keys():
        p, q = one[word] / first, other[word] / second
        middle = (p + q) / 2
        divergence += (p * math.log2(p / middle) if p else 0.0) / 2
        divergence += (q * math.log2(q / middle) if q else 0.0) / 2
    return min(1.0, max(0.0, divergence))


def near_duplicates(new: Sequence[frozenset[int]], old: Sequence[frozenset[int]]) -> float:
    """Share of the documents of `new` that resemble one of `old`, or an earlier one of `new`, by 0.8 or more.

    Exact: two sets can only be that alike if they share one of the smallest fifth of their shingles (prefix
    filtering, Bayardo et al., WWW 2007), so that only those are looked up.
    """
    if not new:
        return 0.0
    index: dict[int, list[frozenset[int]]] = {}

    def remember(shingles: frozenset[int]) -> None:
        for each in _prefix(shingles):
            index.setdefault(each, []).append(shingles)

    for shingles in old:
        remember(shingles)
    found = 0
    for shingles in new:
        if any(_alike(shingles, known) for each in _prefix(shingles) for known in index.get(each, ())):
            found += 1
        remember(shingles)
    return found / len(new)


def typical(new: Profile, old: Profile, most: int = 10) -> list[str]:
    """The words that speak most for `new`: by their part of the divergence, among those that it uses more."""
    first, second = sum(new.words.values()) or 1, sum(old.words.values()) or 1
    parts: dict[str, float] = {}
    for word, count in new.words.items():
        p, q = count / first, old.words[word] / second
        if p > q and count > 1:
            parts[word] = p * math.log2(2 * p / (p + q))
    return sorted(parts, key=lambda word: (-parts[word], word))[:most]


def over(found: Figures, limits: Limits) -> list[str]:
    """The limits that figures are over, in words."""
    said: list[str] = []
    for name, limit in limits.model_dump().items():
        value = getattr(found, name)
        if name == "length" and value and value < 1:
            value = 1 / value
        if limit is not None and value > limit:
            said.append(f"{name} is {value:.3g}, above {limit:.3g}")
    return said


def _half(key: str) -> bool:
    """Which half of a reference a document is in; another hash than the one that samples and splits."""
    return hashlib.sha256(f"half {key}".encode()).digest()[0] % 2 == 0


def _shingles(words: Sequence[str]) -> Iterator[int]:
    for start in range(len(words) - RUN + 1):
        run = " ".join(words[start : start + RUN])
        yield int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big")


def _prefix(shingles: frozenset[int]) -> list[int]:
    if not shingles:
        return []
    return sorted(shingles)[: len(shingles) - math.ceil(ALIKE * len(shingles)) + 1]


def _alike(one: frozenset[int], other: frozenset[int]) -> bool:
    small, large = sorted((len(one), len(other)))
    if not small or small < ALIKE * large:
        return False
    shared = len(one & other)
    return shared >= ALIKE * (len(one) + len(other) - shared)


def _median(lengths: Sequence[int]) -> float:
    return statistics.median(lengths) if lengths else 0.0
