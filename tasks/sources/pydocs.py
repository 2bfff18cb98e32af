"""`pydocs://`: datasets made from the documentation that every Python installation carries.

The language reference is `pydoc_data.topics` (key: the topic), the general corpus the standard library's
docstrings (key: where a docstring stands, e.g. `os.path.join`). The split is a hash of that key, for the
chats and pairs made from a docstring too, and training text that quotes a held-out document is taken out of
the training split, so that nothing held out is trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pydoc_data.topics import topics
from typing import Any

from tasks.recipe.failures import ConfigInvalid
from tasks.sources import exams, questions
from tasks.sources.docstrings import Docstring, collect
from tasks.sources.overlap import runs_of, without, words_of
from tasks.sources.splits import belongs, is_held_out

Rows = Iterable[dict[str, Any]]


def language_reference(split: str) -> Rows:
    """The topics of the language reference as documents."""
    unique: dict[str, str] = {}
    for key, text in sorted(topics.items()):
        unique.setdefault(text, key)  # `if` says what `else` says: an identical text goes once
    return _documents({key: text for text, key in unique.items()}, split)


def library_docstrings(split: str) -> Rows:
    """The standard library's docstrings as documents."""
    return _documents({docstring.key: docstring.text for docstring in collect()}, split)


def chats(split: str) -> Rows:
    """One question and its answer for every docstring with a summary line."""
    return questions.chats([one for one in _cleaned() if belongs(one.key, split)])


def pairs(split: str) -> Rows:
    """The same questions, the right answer preferred over a training function's answer."""
    everything = _cleaned()
    others = [one for one in everything if not is_held_out(one.key)]
    return questions.pairs([one for one in everything if belongs(one.key, split)], others)


def exam_on_the_language_reference(split: str) -> Rows:
    """Multiple choice on the held-out topics."""
    return exams.make(_held_out_for_an_exam(language_reference, split), "the Python language reference")


def exam_on_the_docstrings(split: str) -> Rows:
    """Multiple choice on the held-out docstrings."""
    return exams.make(_held_out_for_an_exam(library_docstrings, split), "the library's documentation")


DATASETS: dict[str, tuple[str, Callable[[str], Rows]]] = {
    "language-reference": ("documents", language_reference),
    "library-docstrings": ("documents", library_docstrings),
    "chats": ("chats", chats),
    "pairs": ("pairs", pairs),
    "exams/language-reference": ("exams", exam_on_the_language_reference),
    "exams/library-docstrings": ("exams", exam_on_the_docstrings),
}
"""Name after `pydocs://` -> kind, and the rows of a split."""


def rows(name: str, split: str, options: Mapping[str, Any]) -> Rows:
    """The rows of the dataset `name`, a key of `DATASETS`.

    Raises:
        ConfigInvalid: An option was given; these datasets have none.
    """
    if options:
        raise ConfigInvalid(f"pydocs://{name} takes no options; remove {', '.join(sorted(options))}")
    return DATASETS[name][1](split)


def _documents(texts: Mapping[str, str], split: str) -> Rows:
    for key, text in texts.items():
        if belongs(key, split):
            text = without(text, _held_out_runs()) if split == "train" else text.strip("\n")
            if text:
                yield {"key": key, "text": text}


@functools.cache
def _held_out_runs() -> frozenset[str]:
    """Every run of 13 words of every held-out document of either corpus."""
    held_out = [text for key, text in topics.items() if is_held_out(key)]
    held_out += [docstring.text for docstring in collect() if is_held_out(docstring.key)]
    return frozenset(run for text in held_out for run in runs_of(words_of(text)))


@functools.cache
def _cleaned() -> tuple[Docstring, ...]:
    """The docstrings, those of the training split without what is held out."""
    training = {row["key"]: row["text"] for row in library_docstrings("train")}
    kept = [one for one in collect() if is_held_out(one.key) or one.key in training]
    return tuple(Docstring(o.key, o.what, o.call, training.get(o.key, o.text)) for o in kept)


def _held_out_for_an_exam(documents: Callable[[str], Rows], split: str) -> dict[str, str]:
    if split == "train":
        raise ConfigInvalid(
            "exams are made from held-out documents only, there is no training split of them; "
            "use 'split: heldout' (or leave it out)"
        )
    return {row["key"]: row["text"] for row in documents("heldout")}
