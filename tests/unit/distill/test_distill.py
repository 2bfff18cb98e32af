"""The stage: what it writes and what it refuses."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tasks.distill import METHODS
from tasks.recipe.failures import ConfigInvalid, Preempted
from tasks.training.models import load_model, model_meta, save_model, tokenizer_digest
from tasks.training.packed import write_packed
from tests.conftest import write_tiny_model

FAST = {"lr": 3e-3, "batch_size": 4, "threads": 1, "epochs": 2.0}


@pytest.fixture
def tokens(tiny_model_dir, tmp_path):
    directory = tmp_path / "tokens"
    directory.mkdir()
    draw = np.random.default_rng(0)
    rows = [[draw.integers(6, 40, 20), draw.integers(6, 40, 12)] for _ in range(16)]
    facts = {"tokenizer": tokenizer_digest(tiny_model_dir), "replay_share": 0.0}
    write_packed(directory, rows, sequence_length=32, vocab_size=300, pad=2, facts=facts)
    return directory


def sure_model(source: Path, directory: Path) -> Path:
    """A copy that is surer of its predictions: its logits are ten times as large."""
    model, tokenizer = load_model(source)
    with torch.no_grad():
        model.model.norm.weight.mul_(10.0)
    save_model(model, tokenizer, directory)
    return directory


@pytest.fixture
def teacher(tiny_model_like, tmp_path):
    return sure_model(tiny_model_like(1), tmp_path / "teacher")


def run(
    make_context: Any, method: str, student: Path, teacher: Path, data: Path, directory: Path, **options: Any
) -> tuple[Any, Any]:
    context = make_context(
        {"model": ("model", student), "teacher": ("model", teacher), "data": ("tokens", data)},
        step="distilled",
        directory=directory,
    )
    return context, METHODS[method].run(context, METHODS[method].options.model_validate(FAST | options))


def weights(context: Any) -> torch.Tensor:
    return torch.cat([each.flatten() for each in load_model(context.output("model"))[0].parameters()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("logits", {}),
        ("logits", {"precision": "bf16"}),
        ("logits", {"direction": "reverse", "top_k": 30, "loss_chunk": 16}),
        ("logits", {"trainable": "lora", "lora_rank": 8, "lr": 1e-2, "epochs": 24.0}),
        ("hidden", {}),
    ],
)
def test_the_student_comes_nearer_to_its_teacher(
    method, options, make_context, tiny_model_dir, teacher, tokens, tmp_path
):
    student = sure_model(tiny_model_dir, tmp_path / "student")
    before = {path.name: path.read_bytes() for path in teacher.iterdir()}
    context, result = run(
        make_context, method, student, teacher, tokens, tmp_path / "c", **{"epochs": 12.0, **options}
    )
    log = [json.loads(row) for row in (context.output("log") / "training.jsonl").read_text().splitlines()]
    assert log[-1]["divergence"] < 0.9 * log[0]["divergence"]
    if method == "hidden":
        assert log[-1]["distance"] < log[0]["distance"]
    assert result.meta["model"] == model_meta(context.output("model"))
    assert {path.name: path.read_bytes() for path in teacher.iterdir()} == before


def test_a_stopped_distillation_goes_on_to_the_same_weights(
    make_context, tiny_model_dir, teacher, tokens, tmp_path
):
    straight, _ = run(make_context, "hidden", tiny_model_dir, teacher, tokens, tmp_path / "straight")
    context = make_context(
        {"model": ("model", tiny_model_dir), "teacher": ("model", teacher), "data": ("tokens", tokens)},
        directory=tmp_path / "stopped",
    )
    context.stop_after = 3
    options = METHODS["hidden"].options.model_validate(FAST)
    with pytest.raises(Preempted):
        METHODS["hidden"].run(context, options)
    context.stop_after = None
    METHODS["hidden"].run(context, options)
    assert torch.equal(weights(context), weights(straight))


def test_a_teacher_with_another_tokenizer_is_refused(
    make_context, tiny_model_dir, tiny_model_like, tokens, tmp_path
):
    teacher = tmp_path / "foreign"
    shutil.copytree(tiny_model_like(1), teacher)
    file = teacher / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(
        ConfigInvalid, match=r"student 'model.model' has tokenizer .* teacher 'teacher.foreign'"
    ):
        run(make_context, "logits", tiny_model_dir, teacher, tokens, tmp_path / "c")


def test_hidden_states_of_another_width_are_refused(make_context, tiny_model_dir, tokens, tmp_path):
    teacher = write_tiny_model(tmp_path / "wide", hidden=48)
    with pytest.raises(ConfigInvalid, match=r"have 32 units and the teacher's 48.*use method: logits"):
        run(make_context, "hidden", tiny_model_dir, teacher, tokens, tmp_path / "c")
    run(make_context, "logits", tiny_model_dir, teacher, tokens, tmp_path / "d", max_steps=1)


def test_options_without_effect_are_refused():
    with pytest.raises(ValidationError, match="top_k has no effect while soft is 0"):
        METHODS["hidden"].options.model_validate({"soft": 0.0, "top_k": 5})
    with pytest.raises(ValidationError, match="set zero_stage to 2 or less"):
        METHODS["hidden"].options.model_validate({"zero_stage": 3})


def test_the_estimate_adds_the_teacher():
    student = {"parameters": 10**8, "hidden": 512, "layers": 8, "vocab_size": 32_000}
    data = {"sequences": 100, "tokens": 3200, "sequence_length": 32}
    estimate = METHODS["logits"].estimate
    assert estimate is not None

    def memory(teacher: Mapping[str, Any]) -> int | None:
        options = METHODS["logits"].options()
        assert estimate is not None
        return estimate(options, {"model": [student], "teacher": [teacher], "data": [data]}).memory_bytes

    small, large = memory({"parameters": 10**9}), memory({"parameters": 2 * 10**9})
    assert small is not None
    assert large is not None
    assert large - small == 4 * 10**9
    assert memory({}) is None
