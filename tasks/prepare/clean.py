"""Unicode clean-up and exact deduplication of documents."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Form = Literal["NFC", "NFKC", "none"]

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""C0 and C1 control characters but tab and line feed."""

ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff]")
"""Zero-width space, word joiner, byte order mark. The zero-width joiners spell words and emoji: they stay."""


def clean(text: str, *, form: Form, control: bool, zero_width: bool) -> str:
    """Line ends become line feeds; then what the options ask for.

    Args:
        text: A document.
        form: Unicode normal form, or "none".
        control: Remove control characters.
        zero_width: Remove zero-width characters that carry no meaning.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if control:
        text = CONTROL.sub("", text)
    if zero_width:
        text = ZERO_WIDTH.sub("", text)
    return text if form == "none" else unicodedata.normalize(form, text)


def content_key(text: str) -> bytes:
    """The sha256 of a text whose runs of white space count as one space: equal keys are exact duplicates."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).digest()


@dataclass
class Deduplication:
    """Passes on the first of equal texts and counts.

    Attributes:
        kept: Texts passed on.
        empty: Texts without a visible character.
        duplicates: Texts seen before, here or in an earlier call.
    """

    enabled: bool
    kept: int = 0
    empty: int = 0
    duplicates: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def filter(self, texts: Iterable[str]) -> list[str]:
        """The texts to keep, in their order."""
        found = []
        for text in texts:
            key = content_key(text)
            if not text.strip():
                self.empty += 1
            elif self.enabled and key in self._seen:
                self.duplicates += 1
            else:
                self._seen.add(key)
                self.kept += 1
                found.append(text)
        return found
