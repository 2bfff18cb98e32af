"""Draws replay: old text mixed into the new, by tokens, against forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.recipe.failures import DataInvalid

Tokens = npt.NDArray[Any]


def replay_tokens(new_tokens: int, share: float) -> int:
    """How many old tokens make up `share` of all, beside `new_tokens` new ones."""
    return round(new_tokens * share / (1 - share))


def draw(documents: Sequence[Tokens], wanted: int, seed: int) -> list[Tokens]:
    """Whole documents in random order until `wanted` tokens are reached; the last one is cut to fit.

    Where the corpus is too small it is gone through again in another order, so that the share holds.

    Args:
        documents: The token ids of the old documents.
        wanted: Tokens to draw.
        seed: Of the order.

    Raises:
        DataInvalid: There is nothing to draw from.
    """
    if wanted and not sum(len(document) for document in documents):
        raise DataInvalid(
            "nothing is left to replay: the replay documents are empty, or all of them are among the new ones"
        )
    generator = np.random.Generator(np.random.PCG64([seed, 0x5EED]))
    drawn: list[Tokens] = []
    while wanted > 0:
        for index in generator.permutation(len(documents)).tolist():
            document = documents[index][:wanted]
            drawn.append(document)
            wanted -= len(document)
            if wanted <= 0:
                break
    return drawn
