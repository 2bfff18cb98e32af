"""Variants of fine-tuning's loss, in shape: NEFTune, label smoothing and DFT against plain cross-entropy.

A question is a few noise words around one subject; the answer depends on the subject alone.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tasks.sft import METHODS
from tasks.training.chats import ChatSamples, render_chats
from tasks.training.models import load_model
from tasks.training.objectives.causal_lm import supervised_logits
from tests.conftest import write_tiny_model

METHOD = METHODS["completion"]
SUBJECTS = ["list", "key", "value", "name", "number", "string", "function", "object"]
ANSWERS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
NOISE = ["the", "a", "every", "which", "another", "is", "of", "if"]


def chats(count: int, seed: int, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Conversations, of which a share has the next subject's answer."""
    draw = random.Random(seed)
    found: list[dict[str, Any]] = []
    for number in range(count):
        subject = draw.randrange(8)
        words = [draw.choice(NOISE) for _ in range(draw.randint(1, 6))]
        words.insert(draw.randrange(len(words) + 1), SUBJECTS[subject])
        answer = ANSWERS[(subject + (draw.random() < wrong)) % 8]
        messages = [{"role": "user", "content": " ".join(words)}, {"role": "assistant", "content": answer}]
        found.append({"key": str(number), "messages": messages})
    return found


HELD_OUT = chats(300, seed=2)


def measured(model_dir: Path) -> dict[str, float]:
    """On new conversations: nats, accuracy and confidence per token, probability per answer."""
    model, tokenizer = load_model(model_dir)
    rows = render_chats(HELD_OUT, tokenizer, max_length=64, too_long="drop", turns="all").rows
    batch = ChatSamples([row for _, row in rows], 0).batch(range(len(rows)))
    with torch.no_grad():
        logits_NV, labels_N = supervised_logits(model, batch)
    confidence_N, guess_N = logits_NV.softmax(1).max(1)
    nats_N = functional.cross_entropy(logits_NV, labels_N, reduction="none")
    tokens = [row.supervised for _, row in rows]
    answers = torch.stack([part.sum() for part in torch.split(nats_N, tokens)])
    return {
        "nats": float(nats_N.mean()),
        "accuracy": float((guess_N == labels_N).float().mean()),
        "confidence": float(confidence_N.mean()),
        "answer": float(torch.exp(-answers).mean()),
    }


Tune = Callable[..., Path]


@pytest.fixture
def tune(make_context, write_rows, tmp_path) -> Tune:
    def run(name: str, model: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
        context = make_context(
            {"model": ("model", model), "data": ("chats", write_rows(name, rows))}, directory=tmp_path / name
        )
        given = {"lr": 5e-3, "threads": 1, "max_length": 64, "packing": False, "checkpoint_every": 1000}
        METHOD.run(context, METHOD.options.model_validate(given | options))
        path: Path = context.output("model")
        return path

    return run


@pytest.fixture
def start(tmp_path) -> Path:
    return write_tiny_model(tmp_path / "start", hidden=48)


@pytest.mark.slow
def test_with_little_data_noise_generalises_and_smoothing_is_less_sure_of_itself(tune, start):
    """Little data, many epochs, three draws of the data.

    Jain et al. 2023 (arXiv 2310.05914, section 5): noise on embeddings keeps a model from overfitting its
    instructions; what it learns holds better elsewhere. The alpha is in proportion to this model's
    embeddings: noise of a quarter of their size, as 5 is for a Llama. Müller et al. 2019 (arXiv
    1906.02629, section 3): label smoothing prevents overconfidence, at the same accuracy.
    """
    found: dict[str, list[dict[str, float]]] = {"plain": [], "noise": [], "smooth": []}
    for seed in (1, 11, 12):
        few = chats(32, seed)
        for name, options in (
            ("plain", {}),
            ("noise", {"neftune": 0.4}),
            ("smooth", {"label_smoothing": 0.1}),
        ):
            found[name].append(measured(tune(f"{name}-{seed}", start, few, epochs=30.0, **options)))

    def mean(name: str, figure: str) -> float:
        return sum(each[figure] for each in found[name]) / 3

    assert mean("noise", "nats") < 0.95 * mean("plain", "nats")
    assert mean("noise", "accuracy") > mean("plain", "accuracy")
    assert mean("plain", "confidence") > mean("plain", "accuracy") + 0.02
    assert mean("smooth", "confidence") < mean("smooth", "accuracy")
    assert abs(mean("smooth", "accuracy") - mean("plain", "accuracy")) < 0.03


@pytest.mark.slow
def test_dft_keeps_to_what_is_likely_where_plain_fine_tuning_copies_every_label(tune, start):
    """Wu et al. 2025 (arXiv 2508.05629, sections 3 and 4).

    Plain fine-tuning follows each label with the inverse of its probability as weight, so that 30 % of wrong
    labels pull its answers to 70 %; DFT takes small steps on unlikely tokens and sharpens the likely ones. It
    needs a model that knows something: from random weights it hardly learns.
    """
    knowing = tune("knowing", start, chats(400, 5), epochs=4.0)
    noisy = chats(400, 3, wrong=0.3)
    found = {
        loss: measured(tune(loss, knowing, noisy, epochs=3.0, lr=2e-3, token_loss=loss))
        for loss in ("nll", "dft")
    }
    assert measured(knowing)["answer"] > 0.9
    assert found["nll"]["answer"] == pytest.approx(0.7, abs=0.1)
    assert found["dft"]["answer"] > 0.95
    unknowing = tune("unknowing", start, chats(400, 5), epochs=4.0, token_loss="dft")
    assert measured(unknowing)["nats"] > 5 * measured(knowing)["nats"] + 0.5
