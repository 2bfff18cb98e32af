"""References: how a step's input names what it reads.

`data.news`, `tuned`, `tuned.log`, `champion`, `champion.base`, `champion.base.log`, `s3://...`, `file://...`,
`hf://...`, `models:/name@alias`, `pydocs://...`; alternatives joined by " or " take the first that exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tasks.recipe import corpora
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import NAME
from tasks.recipe.problems import did_you_mean
from tasks.recipe.uris import check_place

PYDOCS = {
    "language-reference": "documents",
    "library-docstrings": "documents",
    "chats": "chats",
    "pairs": "pairs",
    "exams/language-reference": "exams",
    "exams/library-docstrings": "exams",
}
"""The data sets in every Python installation, and their kinds."""

_MODEL = re.compile(r"^models:/[^/:@\s]+(@[A-Za-z][\w-]*|/\d+)$")
_OR = re.compile(r"\s+or\s+")


@dataclass(frozen=True)
class Reference:
    """One reference. Iterating gives it and its alternatives, in order of preference.

    Attributes:
        kind: What it points at.
        name: The data set, the step, the champion's step ("" is the champion itself), or the URI.
        output: The output of the step, or of the champion's; None for what a bare reference to it means.
        alternatives: Taken in order where what comes before does not exist.
    """

    kind: Literal["data", "step", "champion", "uri"]
    name: str
    output: str | None = None
    alternatives: tuple[Reference, ...] = ()

    def __iter__(self) -> Iterator[Reference]:
        yield self
        yield from self.alternatives

    def __str__(self) -> str:
        """The reference as written, without its alternatives."""
        if self.kind == "uri":
            return self.name
        if self.kind == "data":
            return f"data.{self.name}"
        if self.kind == "champion":
            return ".".join(word for word in ("champion", self.name, self.output) if word)
        return f"{self.name}.{self.output}" if self.output else self.name

    @property
    def word(self) -> str:
        """The last word: what an input is called by the method that reads it."""
        return str(self).rsplit(".", 1)[-1]


def parse_reference(text: str) -> Reference:
    """Parse a reference with its alternatives.

    Raises:
        ConfigInvalid: It is none; the message says what a reference looks like.
    """
    first, *rest = (_one(part) for part in _OR.split(text.strip()))
    return Reference(first.kind, first.name, first.output, tuple(rest))


def implied_kind(uri: str) -> str | None:
    """The kind of artefact that a URI implies by itself, or None."""
    if uri.startswith("models:/"):
        return "model"
    return PYDOCS.get(uri.removeprefix("pydocs://")) if uri.startswith("pydocs://") else None


def check_uri(uri: str) -> None:
    """Refuse a URI that no source can read, or that this installation does not; raises ConfigInvalid."""
    check_place(uri)
    scheme, _, rest = uri.partition("://")
    if uri.startswith("models:/"):
        if not _MODEL.match(uri):
            raise ConfigInvalid(f"'{uri}' names no model version; write models:/name@alias or models:/name/3")
    elif scheme == "corpus":
        corpora.parse(uri)
    elif not rest.strip("/"):
        raise ConfigInvalid(f"'{uri}' says nothing after {scheme}://; write where the data is")
    elif scheme == "pydocs" and rest not in PYDOCS:
        raise ConfigInvalid(f"pydocs:// has no data set '{rest}'; {did_you_mean(rest, PYDOCS)}")


def _one(text: str) -> Reference:
    if ":/" in text:
        check_uri(text)
        return Reference("uri", text)
    words = text.split(".")
    if not all(re.match(NAME, word) for word in words):
        raise ConfigInvalid(
            f"'{text}' is no reference; write data.<name>, <step>, <step>.<output>, champion, "
            f"champion.<step>, champion.<step>.<output> or a URI"
        )
    if words[0] == "data":
        if len(words) != 2:
            raise ConfigInvalid(f"'{text}' is no reference to data; write data.<name>")
        return Reference("data", words[1])
    if words[0] == "champion":
        if len(words) > 3:
            raise ConfigInvalid(f"'{text}' has too many words; write champion.<step>.<output>")
        return Reference("champion", "".join(words[1:2]), words[2] if len(words) == 3 else None)
    if len(words) > 2:
        raise ConfigInvalid(f"'{text}' has too many words; write <step>.<output>")
    return Reference("step", words[0], words[1] if len(words) == 2 else None)
