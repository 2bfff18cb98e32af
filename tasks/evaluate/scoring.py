"""Log-probabilities of tokens under a model: the one place that runs it.

A `Row` is a sequence of tokens and which of them to score. Rows are sorted by length, padded on the right and
run in batches of bounded tokens in fp32, so that a score depends on the row alone, up to rounding. Logits are
computed where they are scored and nowhere else. A row may be a tree: a shared stem with branches that see the
stem and themselves but not each other.

Shapes: B rows, T tokens, S scored positions of the whole batch, H width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from tasks.recipe.failures import DataInvalid
from tasks.stage import Input
from tasks.training.models import load_model

LOGITS_BYTES = 256 * 2**20
"""Most memory for one batch's logits; a batch has fewer rows than asked where the vocabulary is large."""
BATCH_TOKENS = 4096
"""Most tokens in a batch, padding included, where the caller does not say."""
HEAD_TOLERANCE = 1e-4
"""Largest difference of a logit for the output layer to be run on the scored positions alone."""
IN_CACHE = 16
"""Positions whose logits are worked on together."""
STEM = -1
PADDING = -2

Scores = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


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
        picks: Whether the output layer can be run on chosen positions alone (tried when it was loaded).
    """

    ref: str
    digest: str
    model: Any
    tokenizer: Any
    window: int
    prefix: tuple[int, ...]
    prefix_policy: str
    picks: bool = False

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens: the prefix is added by policy, never by the tokenizer."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, for many texts at once."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
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
    picks = honours_picks(model)
    return Subject(item.ref, item.digest, model, tokenizer, window, prefix, policy, picks)


@torch.inference_mode()
def honours_picks(model: Any) -> bool:
    """Whether the logits of chosen positions are the same when only these reach the output layer.

    They are where what follows the layer treats every position by itself (scaling, a soft cap).
    """
    size = min(model.config.get_text_config().vocab_size, 8)
    tokens_BT = torch.arange(size)[None]
    picked_S = torch.tensor([size // 2, size - 1])
    whole_SV = model(input_ids=tokens_BT, use_cache=False).logits[0, picked_S]
    found_SV = _picked_logits(model, tokens_BT, picked_S, {})
    return found_SV is not None and bool(torch.allclose(found_SV, whole_SV, rtol=0, atol=HEAD_TOLERANCE))


def log_probs(
    subject: Subject,
    rows: Sequence[Row],
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Scores]:
    """Natural log-probabilities of each row's scored tokens, in the rows' order.

    Args:
        subject: The model.
        rows: What to score.
        batch_size: Most rows a batch.
        progress: Called with the share of tokens done.
        batch_tokens: Most tokens a batch, padding included; one row may have more.

    Raises:
        DataInvalid: If the model gives values that are not finite.
    """
    total = sum(len(row.tokens) for row in rows)
    found: dict[int, Scores] = {}
    done = 0
    vocabulary = subject.model.config.get_text_config().vocab_size
    sizes = [len(row.sources) if subject.picks else len(row.tokens) for row in rows]
    for chosen in batches(rows, sizes, batch_size, batch_tokens, LOGITS_BYTES // (4 * vocabulary)):
        batch = [rows[index] for index in chosen]
        found.update(zip(chosen, _run(subject, batch), strict=True))
        done += sum(len(row.tokens) for row in batch)
        progress(done / total)
    return [found[index] for index in range(len(rows))]


def batches(
    rows: Sequence[Row], sizes: Sequence[int], batch_size: int, batch_tokens: int, logits: int
) -> Iterator[list[int]]:
    """Indices of the rows of each batch, the longest rows first; a batch has one row at least.

    Args:
        rows: What to run.
        sizes: Of how many positions of each row the logits are computed.
        batch_size: Most rows.
        batch_tokens: Most tokens, padding included.
        logits: Most positions with logits.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].tokens))
    start = 0
    while start < len(order):
        longest = len(rows[order[start]].tokens)
        most = max(1, min(batch_size, batch_tokens // max(1, longest)))
        positions, end = sizes[order[start]], start + 1
        while end < min(start + most, len(order)) and positions + sizes[order[end]] <= logits:
            positions += sizes[order[end]]
            end += 1
        yield order[start:end]
        start = end


@torch.inference_mode()
def _run(subject: Subject, rows: Sequence[Row]) -> list[Scores]:
    longest = max(len(row.tokens) for row in rows)
    tokens_BT = _filled(rows, longest, 0, [row.tokens for row in rows])
    more: dict[str, Any] = {}
    if rows[0].branches is not None:
        positions = [row.positions or () for row in rows]
        more = {
            "attention_mask": _tree_mask(rows, longest),
            "position_ids": _filled(rows, longest, 0, positions),
        }
    picked: list[Any] = []
    places: list[Any] = []
    targets: list[Any] = []
    count = 0
    for index, row in enumerate(rows):
        once, place = numpy.unique(numpy.asarray(row.sources, dtype=numpy.int64), return_inverse=True)
        picked.append(once + index * longest)
        places.append(place + count)
        targets.append(numpy.asarray(row.tokens, dtype=numpy.int64)[list(row.scored)])
        count += len(once)
    picked_S = torch.from_numpy(numpy.concatenate(picked))
    logits_SV = _picked_logits(subject.model, tokens_BT, picked_S, more) if subject.picks else None
    if logits_SV is None:
        logits_SV = subject.model(input_ids=tokens_BT, use_cache=False, **more).logits.flatten(0, 1)[picked_S]
    logits_SV = logits_SV.float()
    places_S = torch.from_numpy(numpy.concatenate(places))
    targets_S = torch.from_numpy(numpy.concatenate(targets))
    scores_S = logits_SV[places_S, targets_S] - _log_sums(logits_SV)[places_S]
    scores = scores_S.double().numpy()
    if not math.isfinite(float(scores.sum())):
        raise DataInvalid(f"model '{subject.ref}' gives log-probabilities that are not finite numbers")
    ends = numpy.cumsum([len(row.scored) for row in rows])
    return list(numpy.split(scores, ends[:-1]))


def _picked_logits(
    model: Any, tokens_BT: torch.Tensor, picked_S: torch.Tensor, more: dict[str, Any]
) -> torch.Tensor | None:
    """The logits (S, V) of positions of the flattened batch; None where the model calls no output layer."""
    head = model.get_output_embeddings()
    if head is None:
        return None
    called = []

    def pick(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        called.append(module)
        return (given[0].flatten(0, 1)[picked_S][None],)

    handle = head.register_forward_pre_hook(pick)
    try:
        logits_1SV = model(input_ids=tokens_BT, use_cache=False, **more).logits
    finally:
        handle.remove()
    found: torch.Tensor | None = logits_1SV[0] if called else None
    return found


def _log_sums(logits_SV: torch.Tensor) -> torch.Tensor:
    """The log of the summed exponentials of each position, a few positions at a time: those stay in cache."""
    starts = range(0, len(logits_SV), IN_CACHE)
    return torch.cat([torch.logsumexp(logits_SV[start : start + IN_CACHE], dim=1) for start in starts])


def _filled(rows: Sequence[Row], longest: int, empty: int, values: Sequence[Sequence[int]]) -> torch.Tensor:
    found_BT = numpy.full((len(rows), longest), empty, dtype=numpy.int64)
    for index, each in enumerate(values):
        found_BT[index, : len(each)] = each
    return torch.from_numpy(found_BT)


def _tree_mask(rows: Sequence[Row], longest: int) -> torch.Tensor:
    """Additive mask (B, 1, T, T): a token sees the stem before it and its own branch before it.

    Padding sees itself only: a row of the mask with nothing allowed would make NaN.
    """
    branches_BT = _filled(rows, longest, PADDING, [row.branches or () for row in rows])
    same_BTT = branches_BT[:, :, None] == branches_BT[:, None, :]
    stem_BTT = (branches_BT == STEM)[:, None, :] & (branches_BT != PADDING)[:, :, None]
    causal_TT = torch.ones(longest, longest, dtype=torch.bool).tril()
    allowed_BTT = (same_BTT | stem_BTT) & causal_TT
    blocked = torch.finfo(torch.float32).min
    return torch.zeros(allowed_BTT.shape).masked_fill_(~allowed_BTT, blocked)[:, None]
