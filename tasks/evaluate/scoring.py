"""Log-probabilities of tokens under a model: the one place that runs it.

A `Row` is a sequence of tokens and which of them to score. Rows are sorted by length, padded on the right and
run in fixed batches in fp32, so that a score depends on the row alone, up to rounding. A row may be a tree:
a shared stem with branches that see the stem and themselves but not each other.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from tasks.recipe.failures import DataInvalid
from tasks.stage import Input
from tasks.training.models import load_model

LOGITS_BYTES = 256 * 2**20
"""Most memory for one batch's logits; a batch has fewer rows than asked where the vocabulary is large."""
STEM = -1
PADDING = -2


@dataclass(frozen=True)
class Subject:
    """A loaded model with its own tokenizer.

    Attributes:
        ref: Its reference in the recipe.
        digest: Its artefact.
        model: In fp32, on the CPU, in eval mode.
        tokenizer: Its tokenizer.
        window: Longest sequence it is given, in tokens.
        prefix: The token before every document and prompt, or none.
        prefix_policy: Which token that is, in words, for the manifest.
    """

    ref: str
    digest: str
    model: Any
    tokenizer: Any
    window: int
    prefix: tuple[int, ...]
    prefix_policy: str

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens: the prefix is added by policy, never by the tokenizer."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


@dataclass(frozen=True)
class Row:
    """A sequence to run and what to score in it.

    Attributes:
        tokens: Token ids.
        scored: Indices of the tokens to score.
        sources: For each of them, the index of the token whose output predicts it.
        positions: Position of each token in its path, for trees.
        branches: Branch of each token, `STEM` for the shared stem; None for a plain sequence.
    """

    tokens: Sequence[int]
    scored: Sequence[int]
    sources: Sequence[int]
    positions: Sequence[int] | None = None
    branches: Sequence[int] | None = None


def load_subject(item: Input, max_length: int) -> Subject:
    """Load a model for evaluation.

    The prefix is the tokenizer's beginning-of-text token, else its end-of-text token (which separates
    documents in models that have only that one), else none.

    Args:
        item: The model artefact.
        max_length: Longest window in tokens; the model's own limit applies where it is smaller.
    """
    model, tokenizer = load_model(item.path)
    prefix: tuple[int, ...]
    if tokenizer.bos_token_id is not None:
        prefix, policy = (tokenizer.bos_token_id,), f"beginning of text {tokenizer.bos_token}"
    elif tokenizer.eos_token_id is not None:
        prefix, policy = (tokenizer.eos_token_id,), f"end of text {tokenizer.eos_token}"
    else:
        prefix, policy = (), "none: the first token costs a uniform choice from the vocabulary"
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    window = min(max_length, limit) if limit else max_length
    return Subject(item.ref, item.digest, model, tokenizer, window, prefix, policy)


def log_probs(
    subject: Subject,
    rows: Sequence[Row],
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
) -> list[numpy.ndarray[Any, numpy.dtype[numpy.float64]]]:
    """Natural log-probabilities of each row's scored tokens, in the rows' order.

    Args:
        subject: The model.
        rows: What to score.
        batch_size: Most rows a batch.
        progress: Called with the share of tokens done.

    Raises:
        DataInvalid: If the model gives values that are not finite.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].tokens))
    total = sum(len(row.tokens) for row in rows)
    found: dict[int, numpy.ndarray[Any, numpy.dtype[numpy.float64]]] = {}
    done = start = 0
    while start < len(order):
        longest = len(rows[order[start]].tokens)
        fit = LOGITS_BYTES // (4 * longest * subject.model.config.get_text_config().vocab_size)
        chosen = order[start : start + max(1, min(batch_size, fit))]
        batch = [rows[index] for index in chosen]
        found.update(zip(chosen, _run(subject, batch), strict=True))
        done += sum(len(row.tokens) for row in batch)
        progress(done / total)
        start += len(chosen)
    return [found[index] for index in range(len(rows))]


@torch.inference_mode()
def _run(subject: Subject, rows: Sequence[Row]) -> list[numpy.ndarray[Any, numpy.dtype[numpy.float64]]]:
    longest = max(len(row.tokens) for row in rows)
    tokens_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens_BT[index, : len(row.tokens)] = torch.tensor(row.tokens)
    more: dict[str, Any] = {}
    if rows[0].branches is not None:
        more = {"attention_mask": _tree_mask(rows, longest), "position_ids": _positions(rows, longest)}
    keep = torch.tensor(sorted({source for row in rows for source in row.sources}))
    if "logits_to_keep" in inspect.signature(subject.model.forward).parameters:
        logits_BKV = subject.model(input_ids=tokens_BT, use_cache=False, logits_to_keep=keep, **more).logits
    else:
        logits_BKV = subject.model(input_ids=tokens_BT, use_cache=False, **more).logits[:, keep]
    found = []
    for index, row in enumerate(rows):
        at_S = torch.searchsorted(keep, torch.tensor(row.sources))
        targets_S = tokens_BT[index, torch.tensor(row.scored)]
        logits_SV = logits_BKV[index, at_S].float()
        scores_S = logits_SV.gather(1, targets_S[:, None])[:, 0] - torch.logsumexp(logits_SV, dim=1)
        scores = scores_S.double().numpy()
        if not math.isfinite(float(scores.sum())):
            raise DataInvalid(f"model '{subject.ref}' gives log-probabilities that are not finite numbers")
        found.append(scores)
    return found


def _tree_mask(rows: Sequence[Row], longest: int) -> torch.Tensor:
    """Additive mask (B, 1, T, T): a token sees the stem before it and its own branch before it.

    Padding sees itself only: a row of the mask with nothing allowed would make NaN.
    """
    branches_BT = torch.full((len(rows), longest), PADDING)
    for index, row in enumerate(rows):
        branches_BT[index, : len(row.tokens)] = torch.tensor(row.branches)
    same_BTT = branches_BT[:, :, None] == branches_BT[:, None, :]
    stem_BTT = (branches_BT == STEM)[:, None, :] & (branches_BT != PADDING)[:, :, None]
    causal_TT = torch.ones(longest, longest, dtype=torch.bool).tril()
    allowed_BTT = (same_BTT | stem_BTT) & causal_TT
    blocked = torch.finfo(torch.float32).min
    return torch.zeros(allowed_BTT.shape).masked_fill_(~allowed_BTT, blocked)[:, None]


def _positions(rows: Sequence[Row], longest: int) -> torch.Tensor:
    positions_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        positions_BT[index, : len(row.tokens)] = torch.tensor(row.positions)
    return positions_BT
