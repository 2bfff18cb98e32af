"""Checks that the documents of a packed row do not see each other."""

from __future__ import annotations

from itertools import pairwise

import torch

from tasks.recipe.failures import ConfigInvalid
from tasks.training.interface import Batch

TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the row's largest; a leak is hundreds of times larger."""


def check_isolation(model: torch.nn.Module, batch: Batch) -> None:
    """Compares the first row's logits with those of each of its documents run alone.

    Raises:
        ConfigInvalid: They differ, so this architecture attends across packed documents.
    """
    ids_T, positions_T = batch["input_ids_BT"][0], batch["position_ids_BT"][0]
    training = model.training
    model.eval()
    try:
        packed_TV = _logits(model, ids_T, positions_T)
        starts = [*torch.nonzero(positions_T == 0).flatten().tolist(), len(ids_T)]
        alone = [_logits(model, ids_T[begin:end], positions_T[begin:end]) for begin, end in pairwise(starts)]
    finally:
        model.train(training)
    scale = 30 if packed_TV.dtype == torch.bfloat16 else 1
    difference = float((packed_TV - torch.cat(alone)).abs().max()) / max(float(packed_TV.abs().max()), 1e-6)
    if not difference <= TOLERANCE * scale:
        raise ConfigInvalid(
            f"packed documents see each other in this model: the logits of a packed row differ from those of"
            f" its documents alone by {difference:.2g} of the largest. Its architecture or attention"
            " implementation does not separate documents by restarting positions; use another one"
        )


def _logits(model: torch.nn.Module, ids_T: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
    logits_TV: torch.Tensor = model(
        input_ids=ids_T[None], position_ids=positions_T[None], use_cache=False
    ).logits[0]
    return logits_TV
