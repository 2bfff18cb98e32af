"""Whole next-token distributions, where the log-probability of the text itself is not enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tasks.evaluate.scoring import LOGITS_BYTES, Subject


@torch.inference_mode()
def distributions(
    subject: Subject, sequences: Sequence[Sequence[int]], batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    """For each sequence of T tokens its index and log-probabilities, shape (T, V), fp32; longest first.

    Row t is the distribution of the token after token t. Memory is bounded by `LOGITS_BYTES` a batch.

    Args:
        subject: The model.
        sequences: Token ids, each at least one.
        batch_size: Most sequences a batch.
    """
    vocabulary = subject.model.config.get_text_config().vocab_size
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    start = 0
    while start < len(order):
        longest = len(sequences[order[start]])
        fit = max(1, LOGITS_BYTES // (4 * longest * vocabulary))
        chosen = order[start : start + min(batch_size, fit)]
        tokens_BT = torch.zeros(len(chosen), longest, dtype=torch.long)
        for row, index in enumerate(chosen):
            tokens_BT[row, : len(sequences[index])] = torch.tensor(sequences[index])
        logits_BTV = subject.model(input_ids=tokens_BT, use_cache=False).logits.float()
        for row, index in enumerate(chosen):
            yield index, torch.log_softmax(logits_BTV[row, : len(sequences[index])], dim=1)
        start += len(chosen)
