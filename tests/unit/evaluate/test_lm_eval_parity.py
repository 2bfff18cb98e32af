"""Log-likelihoods equal those of lm-evaluation-harness (hf backend) on the same model and items."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tasks.evaluate.multiple_choice import asked, score_options
from tasks.evaluate.rows import Exam
from tasks.evaluate.scoring import Subject, load_subject
from tasks.stage import Input

harness = pytest.importorskip(
    "lm_eval.models.huggingface",
    reason="scores are not compared with lm-evaluation-harness: it is not installed (make install brings it)",
)

PROMPT = "Question: {question}\nAnswer:"
EXAMS = [
    Exam("short", "Which key?", ("every key of the mapping is a string", "none"), 0),
    Exam("four", "What is the value of an object?", ("a name", "a list of names", "the key", "it"), 1),
    Exam("long", "If the iterator has more items to give " * 3, ("it returns", "it returns another"), 1),
    Exam("spaces", "two  spaces and a line\nbreak", (" a", "naïve café", "\n"), 2),
]


@pytest.fixture(scope="module")
def llama(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


@pytest.fixture(scope="module")
def gpt2(llama: Subject) -> Subject:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=256)
    return dataclasses.replace(llama, model=GPT2LMHeadModel(config).eval())


def theirs(subject: Subject) -> list[list[float]]:
    from lm_eval.api.instance import Instance

    model: Any = harness.HFLM(
        pretrained=subject.model,
        tokenizer=subject.tokenizer,
        batch_size=4,
        max_length=subject.window,
        device="cpu",
    )
    begin = subject.tokenizer.bos_token  # as text: the tokenizer adds none by itself
    requests = [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=(begin + PROMPT.replace("{question}", exam.question), f" {option}"),
            idx=place,
        )
        for exam in EXAMS
        for place, option in enumerate(exam.options)
    ]
    flat = iter(value for value, _ in model.loglikelihood(requests, disable_tqdm=True))
    return [[next(flat) for _ in exam.options] for exam in EXAMS]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_log_likelihoods_equal_lm_evals(architecture: str, request: pytest.FixtureRequest):
    subject = request.getfixturevalue(architecture)
    ours, _ = score_options(subject, [asked(exam, PROMPT) for exam in EXAMS], 7)
    for exam, mine, other in zip(EXAMS, ours, theirs(subject), strict=True):
        assert mine == pytest.approx(other, abs=1e-4), exam.key
