"""Claims about merging, in shape: fine-tunes of one tiny model, merged from their files.

Two skills on disjoint halves of the vocabulary (count up by one; count up by three) are taught to two copies
of a base that barely knows them. Wortsman et al. 2022 and Ilharco et al. 2022: averaging, or adding the task
vectors, gives one model with both. Yu et al. 2023: much of a task vector can be dropped if the rest is
rescaled.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tasks.merge import METHODS
from tasks.stage import Input

HALF = 12
SKILLS = {"one": (0, 1), "three": (HALF, 3)}
"""Skill -> (first token of its half, how far it counts)."""


def batch(skill: str, seed: int, rows: int = 16) -> torch.Tensor:
    first, pace = SKILLS[skill]
    starts = torch.randint(0, HALF, (rows, 1), generator=torch.Generator().manual_seed(seed))
    return first + (starts + pace * torch.arange(12)) % HALF


def train(model: Any, skills: list[str], steps: int) -> Any:
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        tokens = torch.cat([batch(skill, step) for skill in skills])
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model


def loss(model: Any, skill: str) -> float:
    tokens = batch(skill, 10_000, 64)
    with torch.no_grad():
        return float(model(input_ids=tokens, labels=tokens).loss)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=2 * HALF,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=None,
    )
    base = train(LlamaForCausalLM(config), ["one", "three"], 12)
    found = {"base": base, **{skill: train(copy.deepcopy(base), [skill], 25) for skill in SKILLS}}
    root = tmp_path_factory.mktemp("models")
    for name, model in found.items():
        model.save_pretrained(root / name)
        vocabulary = {f"t{token}": token for token in range(2 * HALF)}
        Tokenizer(WordLevel(vocabulary, unk_token="t0")).save(str(root / name / "tokenizer.json"))
    return {name: (root / name, model) for name, model in found.items()}


@pytest.fixture
def merged(models: dict[str, tuple[Path, Any]], make_context, tmp_path: Path) -> Callable[..., Any]:
    def run(method: str, names: list[str], **options: Any) -> Any:
        def given(name: str) -> Input:
            return Input(name, name, "model", models[name][0])

        shutil.rmtree(tmp_path / "context", ignore_errors=True)
        context = make_context({"models": [given(name) for name in names], "base": given("base")})
        chosen = METHODS[method]
        chosen.run(context, chosen.options.model_validate(options))
        return AutoModelForCausalLM.from_pretrained(context.output("model"))

    return run


def both(model: Any) -> float:
    return sum(loss(model, skill) for skill in SKILLS)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear", {}),
        ("slerp", {"weight": 0.5}),
        ("task_arithmetic", {"scale": 0.7}),
        ("ties", {"density": 0.5}),
        ("dare", {"density": 0.8, "scale": 0.7}),
    ],
)
def test_a_merge_has_both_skills_better_than_either_parent(
    method: str, options: dict[str, Any], models: dict[str, tuple[Path, Any]], merged: Callable[..., Any]
):
    one, three, base = (models[name][1] for name in ("one", "three", "base"))
    result = merged(method, ["one", "three"], **options)
    assert loss(result, "three") < loss(one, "three")
    assert loss(result, "one") < loss(three, "one")
    assert both(result) < min(both(one), both(three), both(base))


def test_subtracting_a_task_vector_takes_its_skill_and_spares_the_other(
    models: dict[str, tuple[Path, Any]], merged: Callable[..., Any]
):
    base = models["base"][1]
    result = merged("task_arithmetic", ["one", "three"], weights=[-1.0, 0.0], scale=1.0)
    harm = {skill: loss(result, skill) - loss(base, skill) for skill in SKILLS}
    assert harm["one"] > 0
    assert harm["one"] > 2 * harm["three"]


def test_dropping_most_of_a_task_vector_costs_less_when_the_rest_is_rescaled(
    models: dict[str, tuple[Path, Any]], merged: Callable[..., Any]
):
    tuned = loss(models["one"][1], "one")
    weights = [1.0, 0.0]
    rescaled = merged("dare", ["one", "three"], weights=weights, density=0.5, scale=1.0)
    only_dropped = merged("dare", ["one", "three"], weights=weights, density=0.5, scale=0.5)
    assert abs(loss(rescaled, "one") - tuned) < abs(loss(only_dropped, "one") - tuned)
