"""Multiple choice: ours; lm-evaluation-harness with its hf backend on the same model and items."""

from __future__ import annotations

import os

from benchmarks.evaluate_sides.common import WINDOW, Answer, exams, model, subject, timed, tokenizer
from tasks.evaluate.measures.few_shot import with_examples
from tasks.evaluate.multiple_choice import Asked, score_options
from tasks.evaluate.options import SuiteOptions

QUESTIONS = {("12m", "full"): 64, ("12m", "quick"): 12, ("125m", "full"): 12, ("125m", "quick"): 4}
BATCH = int(os.environ.get("PEER_BATCH", "4"))
"""Sequences a batch of the peer's: the fastest of 4, 16 and 64 on two cores."""


def asked(size: str, shape: str, shots: int) -> list[Asked]:
    """The questions, each behind solved examples of its own."""
    rows, prompt = exams(QUESTIONS[shape, size]), SuiteOptions().exam_prompt
    return [with_examples(rows, place, shots, prompt, 0) for place in range(len(rows))]


def ours(size: str, shape: str, shots: int) -> Answer:
    """The question run once, its options as branches."""
    options = SuiteOptions()
    held, questions = subject(shape), asked(size, shape, shots)
    (found, _), seconds = timed(
        lambda: score_options(held, questions, options.batch_size, batch_tokens=options.batch_tokens),
        lambda: score_options(held, questions[:2], 2),
    )
    return {"documents_per_second": len(questions) / seconds, "scores": found}


def lm_eval(size: str, shape: str, shots: int) -> Answer:
    """HFLM.loglikelihood, which runs the question with each option."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    words = tokenizer()
    peer = HFLM(pretrained=model(shape), tokenizer=words, batch_size=BATCH, max_length=WINDOW, device="cpu")
    questions = asked(size, shape, shots)
    requests = [
        Instance(
            request_type="loglikelihood",
            doc={},
            # the beginning of text as text: the tokenizer adds none by itself
            arguments=(words.bos_token + question.context, f" {option}"),
            idx=place,
        )
        for question in questions
        for place, option in enumerate(question.options)
    ]
    found, seconds = timed(
        lambda: peer.loglikelihood(requests, disable_tqdm=True),
        lambda: peer.loglikelihood(requests[:8], disable_tqdm=True),
    )
    flat = iter(value for value, _ in found)
    return {
        "documents_per_second": len(questions) / seconds,
        "scores": [[next(flat) for _ in question.options] for question in questions],
    }
