"""Sample text from two models' next-token distributions at once.

Shapes: B samples, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tasks.evaluate.scoring import Subject

Combine = Callable[[Tensor, Tensor], Tensor]
"""From the log-probabilities of two models (B, V) the scores that are sampled from; -inf is never drawn."""


def novel(plausible: float) -> Combine:
    """What the first model finds likelier than the second, among what the first finds plausible at all.

    The cut is that of contrastive decoding (Li et al. 2022, arXiv:2210.15097, section 3.3): without it the
    tokens that both find impossible decide.

    Args:
        plausible: Least probability of a token as a share of the likeliest token's.
    """

    def scores(new_BV: Tensor, old_BV: Tensor) -> Tensor:
        cut_B1 = new_BV.amax(dim=1, keepdim=True) + math.log(plausible)
        return (new_BV - old_BV).masked_fill(new_BV < cut_B1, -math.inf)

    return scores


def disaligned(contrast: float) -> Combine:
    """The base pushed away from its aligned model, base^(1 + a) / aligned^a; the aligned one comes first."""

    def scores(aligned_BV: Tensor, base_BV: Tensor) -> Tensor:
        return (1 + contrast) * base_BV - contrast * aligned_BV

    return scores


@torch.inference_mode()
def sample(
    first: Subject,
    second: Subject,
    prompt: Sequence[int],
    combine: Combine,
    *,
    count: int,
    tokens: int,
    temperature: float,
    stops: frozenset[int],
    seed: int,
) -> list[list[int]]:
    """Draws continuations of a prompt, every token from the two models' combined distribution.

    Args:
        first: A model.
        second: The other model, with the same tokens.
        prompt: One token or more.
        combine: Makes one distribution of two.
        count: How many.
        tokens: Most tokens of each.
        temperature: Divides the scores; 0 takes the token with the largest.
        stops: Tokens that end a text.
        seed: The same seed gives the same texts.

    Returns:
        The tokens after the prompt, the one that ended it left out; one may be empty.
    """
    generator = torch.Generator().manual_seed(seed)
    next_BT = torch.tensor([list(prompt)] * count)
    caches: list[object] = [None, None]
    drawn: list[list[int]] = [[] for _ in range(count)]
    going = [True] * count
    for _ in range(tokens):
        found = []
        for side, subject in enumerate((first, second)):
            out = subject.model(input_ids=next_BT, past_key_values=caches[side], use_cache=True)
            caches[side] = out.past_key_values
            found.append(torch.log_softmax(out.logits[:, -1].float(), dim=1))
        scores_BV = combine(found[0], found[1])
        if temperature:
            weights_BV = torch.softmax(scores_BV / temperature, dim=1)
            next_BT = torch.multinomial(weights_BV, 1, generator=generator)
        else:
            next_BT = scores_BV.argmax(dim=1, keepdim=True)
        for row, token in enumerate(next_BT[:, 0].tolist()):
            going[row] = going[row] and token not in stops
            if going[row]:
                drawn[row].append(token)
        if not any(going):
            break
    return drawn
