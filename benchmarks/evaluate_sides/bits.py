"""Bits per byte: ours, every document by itself; a plain forward of all documents packed into full rows.

The packed forward is the least that the model's own arithmetic costs. It lets a document see the one before
it, so that only a row's first document has the scores that it has alone: on that one both sides must agree.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from benchmarks.evaluate_sides.common import WINDOW, Answer, documents, model, subject, timed, tokenizer
from tasks.evaluate.bits_per_byte import score_documents
from tasks.evaluate.options import SuiteOptions

DOCUMENTS = {"full": 160, "quick": 32}
ROWS = 2
"""Packed rows a batch."""


def ours(size: str) -> Answer:
    """Documents of near length together."""
    options = SuiteOptions()
    held, rows = subject("12m"), documents(DOCUMENTS[size])
    found, seconds = timed(
        lambda: score_documents(held, rows, options.batch_size, None, batch_tokens=options.batch_tokens),
        lambda: score_documents(held, rows[:2], 2, None),
    )
    return {"tokens_per_second": sum(each.tokens for each in found) / seconds, "first": found[0].nats}


@torch.inference_mode()
def packed(size: str) -> Answer:
    """Every document behind the beginning of text, one after the other, cut into full rows."""
    built, words = model("12m"), tokenizer()
    texts = [row.text for row in documents(DOCUMENTS[size])]

    def run(chosen: list[str]) -> list[float]:
        ids = [[words.bos_token_id, *each] for each in words(chosen)["input_ids"]]
        flat = [token for each in ids for token in each]
        rows = [flat[start : start + WINDOW] for start in range(0, len(flat), WINDOW)]
        nats = []
        for start in range(0, len(rows), ROWS):
            batch = rows[start : start + ROWS]
            longest = max(map(len, batch))
            tokens_BT = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
            logits_BTV = built(input_ids=tokens_BT, use_cache=False).logits[:, :-1]
            losses_N = functional.cross_entropy(
                logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none"
            )
            for row, losses_T in zip(batch, losses_N.view(len(batch), -1), strict=True):
                nats += losses_T[: len(row) - 1].double().tolist()
        return nats

    found, seconds = timed(lambda: run(texts), lambda: run(texts[:2]))
    first = len(words(texts[0])["input_ids"])
    tokens = sum(map(len, words(texts)["input_ids"]))
    return {"tokens_per_second": tokens / seconds, "first": sum(found[:first])}
