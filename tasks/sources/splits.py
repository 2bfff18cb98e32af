"""Which side of a split a row belongs to: a hash of its key decides, so it never changes."""

from __future__ import annotations

import hashlib

SPLITS = ("all", "train", "heldout")

HELD_OUT_ONE_IN = 10
"""One key in so many is held out, about 10 % of the rows (9.7 % of the language reference's characters)."""


def number_of(key: str) -> int:
    """The SHA-256 of `key` as a number: the same on every machine and every Python."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")


def is_held_out(key: str) -> bool:
    """Whether the row with this key is held out: sha256(key) mod 10 is 0."""
    return number_of(key) % HELD_OUT_ONE_IN == 0


def belongs(key: str, split: str) -> bool:
    """Whether the row with this key is in `split` (all, train or heldout)."""
    return split == "all" or is_held_out(key) == (split == "heldout")
