"""Weights that look fine and are not: brittle ones, and those with intruder dimensions.

Springer et al. 2025: a model may score the same and be harder to tune, being sensitive to any change of its
weights. Shuttleworth et al. 2024: low-rank adapters leave large singular vectors that were not there before,
full fine-tuning to the same loss does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tasks.sft import METHODS as SFT
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


@pytest.mark.slow
def test_latent_gains_are_seen_after_the_same_tuning(knowing, write_rows, tmp_path):
    """Sun and Dredze 2024: a checkpoint may score alike before fine-tuning and better after.

    One model has read the facts as text, the other has not; neither can answer questions before it was shown
    what a question is.
    """
    topics = ["list", "key", "value", "name", "number", "string", "function", "object"]
    facts = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    sentences = [f"{topic} {fact}" for topic, fact in zip(topics, facts, strict=True)]
    read = taught(knowing, tmp_path / "read", sentences, 60)
    other = taught(knowing, tmp_path / "other", [s.split()[0] for s in sentences], 60)
    chats = [chat(topic, fact) for topic, fact in zip(topics[:4], facts[:4], strict=True)] * 4
    exams = [{"key": t, "question": t, "options": facts, "answer": i} for i, t in enumerate(topics)]
    found, _ = probe(
        "tunability",
        tmp_path / "probe",
        {
            "model": ("model", read),
            "champion": ("model", other),
            "chats": ("chats", write_rows("chats", chats)),
            "score": ("exams", write_rows("exams", exams)),
        },
        threads=1,
        steps=10,
    )
    after = found["after_sft"]
    assert after["better"] == "higher"
    assert value(after) > value(after, "champion")


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
            "model": ("model", tuned["adapter"][0]),
            "champion": ("model", tuned["full"][0]),
            "origin": ("model", knowing),
        },
    )
    assert value(found["share"]) > 0.05
    assert value(found["share"]) > 5 * value(found["share"], "champion")
    assert found["most"]["values"]["model"]["value"] >= 1
    assert any("_proj.weight" in note for note in whole["notes"])
