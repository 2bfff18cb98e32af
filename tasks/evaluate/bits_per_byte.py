"""Bits per byte: how many bits the model needs for one byte of raw text.

Gao et al. 2020, "The Pile" (arXiv:2101.00027), section 3.1: the nats of all tokens over ln 2 and the UTF-8
bytes of the text, comparable between tokenizers. Long documents are scored in overlapping windows, every
token once, each with at least `window - stride` tokens of context where the document has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.evaluate.rows import Document
from tasks.evaluate.scoring import BATCH_TOKENS, Row, Subject, log_probs


@dataclass(frozen=True)
class DocumentScore:
    """The cost of one document: nats over its tokens, the number of tokens, and its UTF-8 bytes."""

    nats: float
    tokens: int
    bytes: int


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """How to cover a sequence: (begin, end, first index that is scored) of each window.

    Index 0 is never scored: nothing predicts it. Every other index is scored exactly once.

    Args:
        length: Tokens of the sequence, with its prefix.
        window: Most tokens in one window, at least 2.
        stride: Tokens that a further window adds, 1 to window - 1.
    """
    end = min(window, length)
    found = [(0, end, 1)] if length > 1 else []
    while end < length:
        first, end = end, min(end + stride, length)
        found.append((end - window, end, first))
    return found


def score_documents(
    subject: Subject,
    documents: Sequence[Document],
    batch_size: int,
    stride: int | None,
    progress: Callable[[float], None] = lambda done: None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[DocumentScore]:
    """Score every document.

    Args:
        subject: The model.
        documents: The set.
        batch_size: Most windows in a batch.
        stride: New tokens per further window; half the model's window where None.
        progress: Called with the share done.
        batch_tokens: Most tokens in a batch, padding included.
    """
    step = min(stride or subject.window // 2, subject.window - 1)
    rows: list[Row] = []
    owners: list[int] = []
    counts: list[int] = []
    for owner, ids in enumerate(subject.encode_all([document.text for document in documents])):
        counts.append(len(ids))
        sequence = [*subject.prefix, *ids]
        for begin, end, first in windows(len(sequence), subject.window, step):
            scored = range(first - begin, end - begin)
            sources = range(first - begin - 1, end - begin - 1)
            rows.append(Row(sequence[begin:end], scored, sources))
            owners.append(owner)
    unpredicted = 0.0 if subject.prefix else math.log(subject.model.config.get_text_config().vocab_size)
    nats = [unpredicted] * len(documents)
    found = log_probs(subject, rows, batch_size, progress, batch_tokens)
    for owner, scores in zip(owners, found, strict=True):
        nats[owner] -= float(scores.sum())
    return [
        DocumentScore(nats[owner], counts[owner], len(document.text.encode()))
        for owner, document in enumerate(documents)
    ]
