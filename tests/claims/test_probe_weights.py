"""Weights that look fine and are not: brittle ones, and those with intruder dimensions.

Springer et al. 2025: a model may score the same and be harder to tune, being sensitive to any change of its
weights. Shuttleworth et al. 2024: low-rank adapters leave large singular vectors that were not there before,
full fine-tuning to the same loss does not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tasks.sft import METHODS as SFT
from tasks.stage import Input
from tasks.training.models import load_model, save_model
from tests.claims.probing import chat, probe, taught, value, verdict
from tests.conftest import new_context, tiny_texts, write_tiny_model


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("knowing")
    start = write_tiny_model(directory / "start", hidden=48)
    return taught(start, directory / "model", tiny_texts(200, seed=1), 120)


def widened(source: Path, to: Path, apart: float) -> Path:
    """The same function with every neuron twice; the halves of its output differ by something that cancels.

    Args:
        source: A model.
        to: Where to write the wider one.
        apart: The size of what cancels, as a multiple of the weights that it is added to.
    """
    model, tokenizer = load_model(source)
    config = type(model.config)(**{**model.config.to_dict(), "intermediate_size": 192})
    wide = LlamaForCausalLM(config)
    state = model.state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, weight in state.items():
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            state[name] = torch.cat([weight, weight])
        if name.endswith("down_proj.weight"):
            noise = torch.randn(weight.shape, generator=generator) * weight.square().mean().sqrt() * apart
            state[name] = torch.cat([weight / 2 + noise, weight / 2 - noise], dim=1)
    wide.load_state_dict(state)
    save_model(wide.eval(), tokenizer, to)
    return to


@pytest.mark.slow
def test_brittle_weights_are_found_and_sound_ones_pass(knowing, write_rows, tmp_path):
    sound, brittle = (widened(knowing, tmp_path / n, by) for n, by in (("sound", 0.0), ("brittle", 20.0)))
    texts = tiny_texts(220, seed=2)
    chats = [chat(text, "it is a list", str(i)) for i, text in enumerate(texts[:64])]
    sets = {
        "chats": ("chats", write_rows("chats", chats)),
        "score": (
            "documents",
            write_rows("score", [{"key": str(i), "text": t} for i, t in enumerate(texts[-24:])]),
        ),
    }
    found, whole = probe(
        "tunability",
        tmp_path / "probe",
        {"model": ("model", brittle), "champion": ("model", sound), **sets},
        threads=1,
        seeds=2,
        steps=10,
    )
    rule = {"against": "champion", "worse_by": 0.1, "confidence": 0.95}
    assert verdict(whole, "tunability.sensitivity", **rule) == "failed"
    assert verdict(whole, "tunability.after_sft", **rule) == "failed"
    _, other = probe(
        "tunability",
        tmp_path / "passes",
        {"model": ("model", sound), "champion": ("model", knowing), **sets},
        threads=1,
        seeds=2,
        steps=10,
    )
    assert verdict(other, "tunability.sensitivity", **rule) == "passed"
    assert verdict(other, "tunability.after_sft", **rule) == "passed"
    before = found["before_sft"]
    assert value(before) == pytest.approx(value(before, "champion"), rel=1e-3)  # the suite sees nothing
    assert value(found["sensitivity"]) > 4 * value(found["sensitivity"], "champion") > 0
    assert found["sensitivity"]["against"]["champion"]["low"] > 0
    assert found["after_sft"]["against"]["champion"]["low"] > 0
    levels = [value(found[f"noise_{size}"]) for size in ("0.01", "0.03", "0.1")]
    assert levels == sorted(levels)


TOPICS = ["list", "key", "value", "name", "number", "string", "function", "object"]
FACTS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
NOISE = ["the", "a", "every", "which", "another", "is", "of", "if"]


def question(draw: random.Random, topic: int) -> str:
    words = [draw.choice(NOISE) for _ in range(draw.randint(1, 4))]
    words.insert(draw.randrange(len(words) + 1), TOPICS[topic])
    return " ".join(words)


def asked(count: int, seed: int, topics: Sequence[int]) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    chosen = [draw.choice(topics) for _ in range(count)]
    return [chat(question(draw, topic), FACTS[topic], f"{seed}-{at}") for at, topic in enumerate(chosen)]


def read(count: int, seed: int, true: bool) -> list[str]:
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        topic = draw.randrange(8)
        found.append(f"{question(draw, topic)}: {FACTS[topic] if true else draw.choice(FACTS)}.")
    return found


@pytest.mark.slow
def test_what_was_read_is_found_after_the_same_tuning(tmp_path, write_rows):
    """Sun and Dredze 2024: a checkpoint is judged after a fixed fine-tuning.

    One model read the facts as text, the other the same text with the facts shuffled. Both are shown on half
    of the topics what a question is, and are asked about the other half.
    """
    start = write_tiny_model(tmp_path / "start", hidden=48)
    knows = taught(start, tmp_path / "knows", read(300, 1, True), 200)
    shuffled = taught(start, tmp_path / "shuffled", read(300, 1, False), 200)
    found, whole = probe(
        "tunability",
        tmp_path / "probe",
        {
            "model": ("model", knows),
            "champion": ("model", shuffled),
            "chats": ("chats", write_rows("chats", asked(64, 2, range(4)))),
            "score": ("chats", write_rows("score", asked(40, 3, range(4, 8)))),
        },
        threads=1,
        seeds=2,
        steps=10,
        lr=2e-3,
        noise=[0.01],
    )
    assert found["after_sft"]["against"]["champion"]["high"] < 0
    rule = {"against": "champion", "worse_by": 0.05, "confidence": 0.95}
    assert verdict(whole, "tunability.after_sft", **rule) == "passed"


@pytest.mark.slow
def test_low_rank_adapters_leave_intruders_and_full_tuning_does_not(knowing, write_rows, tmp_path):
    chats = [chat(text, "it is a list of names", str(i)) for i, text in enumerate(tiny_texts(64, seed=5))]
    data = write_rows("chats", chats)
    method = SFT["completion"]
    tuned = {}
    for name, options in (
        ("adapter", {"trainable": "lora", "lora_rank": 2, "lora_alpha": 64.0, "lr": 2e-2}),
        ("full", {"lr": 2e-3}),
    ):
        context = new_context(tmp_path / name, {"model": ("model", knowing), "data": ("chats", data)})
        given = {"threads": 1, "max_length": 128, "packing": False, "epochs": 5.0, "checkpoint_every": 1000}
        result = method.run(context, method.options.model_validate(given | options))
        tuned[name] = (context.output("model"), result.metrics["loss"])
    assert tuned["full"][1] < tuned["adapter"][1] + 0.1  # full tuning learnt it as well

    found, whole = probe(
        "intruders",
        tmp_path / "probe",
        {
            "model": Input("adapter", "a" * 64, "model", tuned["adapter"][0]),
            "champion": Input("full", "f" * 64, "model", tuned["full"][0]),
            "origin": ("model", knowing),
        },
    )
    assert value(found["share"]) > 0.05
    assert value(found["share"]) > 5 * value(found["share"], "champion")
    assert found["most"]["values"]["model"]["value"] >= 1
    assert any("_proj.weight" in note for note in whole["notes"])
