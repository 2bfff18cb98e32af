"""Multiple choice: ours; lm-evaluation-harness with its hf backend on the same model and items."""

from __future__ import annotations

import os

from benchmarks.evaluate_sides.common import WINDOW, Answer, exams, model, subject, timed, tokenizer
from tasks.evaluate.multiple_choice import asked, score_options
from tasks.evaluate.options import SuiteOptions

QUESTIONS = {("12m", "full"): 96, ("12m", "quick"): 16, ("125m", "full"): 24, ("125m", "quick"): 4}
BATCH = int(os.environ.get("PEER_BATCH", "16"))
"""Sequences a batch of the peer's."""


def ours(size: str, shape: str) -> Answer:
    """The question run once, its options as branches."""
    options = SuiteOptions()
    held, rows = subject(shape), exams(QUESTIONS[shape, size])
    questions = [asked(row, options.exam_prompt) for row in rows]
    (found, _), seconds = timed(
        lambda: score_options(held, questions, options.batch_size, batch_tokens=options.batch_tokens),
        lambda: score_options(held, questions[:2], 2),
    )
    return {"documents_per_second": len(rows) / seconds, "scores": found}


def lm_eval(size: str, shape: str) -> Answer:
    """HFLM.loglikelihood, which runs the question with each option."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    words, prompt = tokenizer(), SuiteOptions().exam_prompt
    peer = HFLM(pretrained=model(shape), tokenizer=words, batch_size=BATCH, max_length=WINDOW, device="cpu")
    rows = exams(QUESTIONS[shape, size])
    requests = [
        Instance(
            request_type="loglikelihood",
            doc={},
            # the beginning of text as text: the tokenizer adds none by itself
            arguments=(words.bos_token + prompt.replace("{question}", row.question), f" {option}"),
            idx=place,
        )
        for row in rows
        for place, option in enumerate(row.options)
    ]
    found, seconds = timed(
        lambda: peer.loglikelihood(requests, disable_tqdm=True),
        lambda: peer.loglikelihood(requests[:8], disable_tqdm=True),
    )
    flat = iter(value for value, _ in found)
    return {
        "documents_per_second": len(rows) / seconds,
        "scores": [[next(flat) for _ in row.options] for row in rows],
    }
