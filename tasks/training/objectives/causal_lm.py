"""Causal language modelling: the cross-entropy of each supervised token given those before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tasks.training.interface import NOT_SUPERVISED, Batch, Objective


def supervised_logits(model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The logits (N, V), in fp32, that predict the N supervised tokens of a batch, and those tokens (N).

    No attention mask is given and the cache is off: then transformers finds the documents of a packed row by
    their restarting positions and never attends across them. With a mask or a cache it would, silently.
    """
    logits_BTV = model(
        input_ids=batch["input_ids_BT"], position_ids=batch["position_ids_BT"], use_cache=False
    ).logits
    labels_BT = batch["labels_BT"][:, 1:]
    supervised_BT = labels_BT != NOT_SUPERVISED
    return logits_BTV[:, :-1][supervised_BT].float(), labels_BT[supervised_BT]


def loss(model: torch.nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The summed cross-entropy in nats."""
    logits_NV, labels_N = supervised_logits(model, batch)
    return functional.cross_entropy(logits_NV, labels_N, reduction="sum"), {}


def weight(batch: Batch) -> float:
    """How many tokens are supervised; the first of a row never is, since nothing predicts it."""
    return float((batch["labels_BT"][:, 1:] != NOT_SUPERVISED).sum())


CAUSAL_LM = Objective(name="causal_lm", loss=loss, weight=weight)
"""The pretraining objective; with labels only on the answers, also that of supervised fine-tuning."""
