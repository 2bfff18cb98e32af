"""How many tokens a text will be, before anything is tokenised."""

from __future__ import annotations

CHARACTERS_PER_TOKEN = 3.5
"""Of English prose and identifiers under BPE vocabularies of 4,000 to 150,000 tokens: about 3 to 4.5."""

TEMPLATE_TOKENS = 6
"""What a chat template adds to a conversation of one question and one answer."""


def guess_tokens(rows: int | None, characters: int | None) -> int | None:
    """Tokens of `rows` conversations of `characters` in all, or None where either is not known."""
    if rows is None or characters is None:
        return None
    return round(characters / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS * rows
