"""Replay keeps old knowledge at a small cost in new (Ibrahim et al. 2024, arXiv 2403.08763)."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.prepare.methods import pack
from tasks.pretrain.methods import continue_
from tasks.training.models import load_model
from tasks.training.objectives.causal_lm import CAUSAL_LM
from tasks.training.packed import PackedSamples

OLD_WORDS = ["value", "object", "function", "list", "names", "key", "mapping", "string"]
NEW_WORDS = ["river", "stone", "forest", "cloud", "winter", "valley", "meadow", "storm"]


def rows(words: list[str], count: int, seed: int) -> list[dict[str, str]]:
    """Sentences in which each word has its own successors: something to learn and to forget."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        at = draw.randrange(8)
        sentence = []
        for _ in range(20):
            sentence.append(words[at])
            at = (3 * at + draw.choice((1, 2))) % 8
        found.append({"key": str(number), "text": " ".join(sentence)})
    return found


@torch.no_grad()
def loss_on(model_dir: Path, tokens: Path) -> float:
    """Nats per token."""
    model, _ = load_model(model_dir)
    samples = PackedSamples(tokens)
    batch = samples.batch(range(len(samples)))
    return CAUSAL_LM.loss(model, batch)[0].item() / CAUSAL_LM.weight(batch)


@pytest.mark.slow
def test_replay_forgets_less_and_learns_almost_as_much(make_context, write_rows, tiny_model_dir, tmp_path):
    def tokens(name: str, given: dict[str, Any], replay: float = 0.0) -> Path:
        context = make_context({"model": ("model", tiny_model_dir), **given}, directory=tmp_path / name)
        pack.run(context, pack.PackOptions(sequence_length=128, replay=replay))
        path: Path = context.output("tokens")
        return path

    def trained(name: str, model: Path, data: Path, **options: Any) -> Path:
        context = make_context(
            {"model": ("model", model), "data": ("tokens", data)}, directory=tmp_path / name
        )
        chosen = {"batch_size": 4, "lr": 5e-3, "warmup": 0.05, "threads": 1, **options}
        continue_.run(context, continue_.ContinueOptions(**chosen))
        path: Path = context.output("model")
        return path

    old = ("documents", write_rows("old", rows(OLD_WORDS, 120, 0)))
    new = ("documents", write_rows("new", rows(NEW_WORDS, 120, 1)))
    old_heldout = tokens(
        "old_heldout", {"documents": ("documents", write_rows("oh", rows(OLD_WORDS, 20, 2)))}
    )
    new_heldout = tokens(
        "new_heldout", {"documents": ("documents", write_rows("nh", rows(NEW_WORDS, 20, 3)))}
    )

    base = trained("base", tiny_model_dir, tokens("old_tokens", {"documents": old}), epochs=8.0)
    plain = trained("plain", base, tokens("plain_tokens", {"documents": new}), epochs=8.0)
    mixed_tokens = tokens("mixed_tokens", {"documents": new, "replay": old}, replay=0.25)
    mixed = trained("mixed", base, mixed_tokens, epochs=8.0)

    forgotten_plain = loss_on(plain, old_heldout) - loss_on(base, old_heldout)
    forgotten_mixed = loss_on(mixed, old_heldout) - loss_on(base, old_heldout)
    learned_plain = loss_on(base, new_heldout) - loss_on(plain, new_heldout)
    learned_mixed = loss_on(base, new_heldout) - loss_on(mixed, new_heldout)
    assert forgotten_plain > 0.3
    assert forgotten_mixed < 0.5 * forgotten_plain
    assert learned_mixed > 0.9 * learned_plain
