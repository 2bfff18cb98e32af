"""What goes wrong in a training has a policy: stop, leave the step out, or go back and leave out the data."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.recipe.failures import Diverged, Preempted
from tasks.training.anomaly import anomaly
from tasks.training.interface import Batch, Objective
from tasks.training.loop import TrainOptions, train
from tasks.training.models import load_model
from tasks.training.objectives.causal_lm import CAUSAL_LM
from tasks.training.order import indices_at
from tasks.training.schedule import learning_rate

OPTIONS: dict[str, Any] = {
    "lr": 1e-3,
    "threads": 1,
    "batch_size": 2,
    "accumulation": 2,
    "checkpoint_every": 2,
    "warmup": 0.0,
    "clip": 0.0,
}
STEPS = 8


class Rows:
    """32 rows of 16 tokens; `bad` says which of them spoil a loss."""

    tokens = 32 * 16
    longest = 16

    def __init__(self, bad_steps: Sequence[int]) -> None:
        self.bad = {index for step in bad_steps for index in indices_at(0, 32, 4 * (step - 1), 4).tolist()}

    def __len__(self) -> int:
        return 32

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = [torch.randint(6, 300, (16,), generator=torch.Generator().manual_seed(i)) for i in indices]
        ids_BT = torch.stack(rows)
        return {
            "input_ids_BT": ids_BT,
            "position_ids_BT": torch.arange(16).expand_as(ids_BT).contiguous(),
            "labels_BT": ids_BT.clone(),
            "bad_B": torch.tensor([index in self.bad for index in indices]),
        }


def spoilt(factor: float) -> Objective:
    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, figures = CAUSAL_LM.loss(model, batch)
        return total * (factor if bool(batch["bad_B"].any()) else 1.0), figures

    return Objective("spoilt", loss, CAUSAL_LM.weight)


def run(context: Any, model_dir: Path, bad: Sequence[int], factor: float, **options: Any) -> torch.Tensor:
    model, _ = load_model(model_dir, options.get("precision", "fp32"))
    log = context.output("log") / "training.jsonl"
    given = TrainOptions(**{**OPTIONS, **options})
    train(context, model, Rows(bad), spoilt(factor), given, log_path=log)
    return torch.cat([parameter.detach().float().flatten() for parameter in model.parameters()])


def by_hand(model_dir: Path, steps: Sequence[int]) -> torch.Tensor:
    """The weights after exactly these optimiser steps of the training, in plain torch."""
    model, _ = load_model(model_dir)
    options, rows = TrainOptions(**OPTIONS), Rows([])
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(options.beta1, options.beta2))
    for step in steps:
        batch = rows.batch(indices_at(0, 32, 4 * (step - 1), 4).tolist())
        loss = CAUSAL_LM.loss(model, batch)[0] / CAUSAL_LM.weight(batch)
        torch.autograd.backward(loss)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate((4 * step - 2) / 32, options)
        optimiser.step()
        optimiser.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def events(context: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (context.output("log") / "events.jsonl").read_text().splitlines()]


def test_what_counts_as_an_anomaly() -> None:
    flat = [2.0 + 0.1 * (-1) ** step for step in range(32)]
    assert anomaly(2.2, flat, 6.0) == ""
    assert "7.0 standard deviations above the 2 of the last 32" in anomaly(2.7, flat, 6.0)
    assert anomaly(2.7, flat, 0.0) == ""
    assert anomaly(2.7, flat[:15], 6.0) == "", "too few steps to tell"
    assert anomaly(2.05, [2.0] * 32, 3.0) == "", "a flat loss has no deviation to believe"
    assert anomaly(math.nan, [], 0.0) == "the loss is nan"
    assert anomaly(0.0, [], 0.0) == "the loss is exactly 0"


@pytest.mark.parametrize("factor", [math.nan, math.inf, 0.0])
def test_skip_leaves_out_exactly_the_bad_step(factor, make_context, tiny_model_dir):
    context = make_context()
    trained = run(context, tiny_model_dir, [3, 6], factor, on_anomaly="skip")
    expected = by_hand(tiny_model_dir, [1, 2, 4, 5, 7, 8])
    torch.testing.assert_close(trained, expected, rtol=0, atol=2e-6)
    assert [(event["step"], event["samples"], event["policy"]) for event in events(context)] == [
        (3, 12, "skip"),
        (6, 24, "skip"),
    ]
    log = (context.output("log") / "training.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in log] == [1, 2, 4, 5, 7, 8]
    assert sum("anomaly at optimiser step" in note for note in context.notes) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [{"zero_stage": 1}, {"zero_stage": 2}, {"zero_stage": 3}, {"precision": "bf16"}], ids=str
)
def test_every_engine_leaves_the_weights_alone(engine, make_context, tiny_model_dir, tmp_path):
    spoilt_first = run(
        make_context(directory=tmp_path / "a"), tiny_model_dir, [1], math.nan, on_anomaly="skip", **engine
    )
    plain = by_hand(tiny_model_dir, range(2, STEPS + 1))
    assert torch.isfinite(spoilt_first).all()
    tolerance = 2e-2 if engine.get("precision") == "bf16" else 2e-6
    torch.testing.assert_close(spoilt_first, plain, rtol=0, atol=tolerance)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_rollback_leaves_out_the_data_since_the_checkpoint(zero_stage, make_context, tiny_model_dir):
    context = make_context()
    trained = run(
        context,
        tiny_model_dir,
        [6],
        math.nan,
        on_anomaly="rollback",
        checkpoint_every=4,
        zero_stage=zero_stage,
    )
    torch.testing.assert_close(trained, by_hand(tiny_model_dir, [1, 2, 3, 4, 7, 8]), rtol=0, atol=2e-6)
    (event,) = events(context)
    assert event["back_to"] == {"step": 4, "samples": 16}
    log = (context.output("log") / "training.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in log] == [1, 2, 3, 4, 7, 8]


def test_rollback_before_the_first_checkpoint_goes_to_the_start(make_context, tiny_model_dir):
    trained = run(make_context(), tiny_model_dir, [2], math.nan, on_anomaly="rollback", checkpoint_every=100)
    torch.testing.assert_close(trained, by_hand(tiny_model_dir, range(3, 9)), rtol=0, atol=2e-6)


def test_a_stop_between_anomalies_changes_nothing(make_context, tiny_model_dir, tmp_path):
    options = {"on_anomaly": "rollback", "checkpoint_every": 3}
    straight = run(make_context(directory=tmp_path / "a"), tiny_model_dir, [2, 5], math.nan, **options)
    context = make_context(directory=tmp_path / "b")
    context.stop_after = 4
    with pytest.raises(Preempted):
        run(context, tiny_model_dir, [2, 5], math.nan, **options)
    context.stop_after = None
    assert len(json.loads((context.checkpoints.newest()[0] / "state.json").read_text())["events"]) == 1
    resumed = run(context, tiny_model_dir, [2, 5], math.nan, **options)
    assert len(events(context)) == 2
    assert torch.isfinite(straight).all()
    assert torch.isfinite(resumed).all()


def test_too_many_give_up_and_stop_is_the_default(make_context, tiny_model_dir, tmp_path):
    with pytest.raises(Diverged, match="It is anomaly 3, and anomalies allows 2"):
        run(
            make_context(directory=tmp_path / "a"),
            tiny_model_dir,
            [1, 2, 3],
            math.nan,
            on_anomaly="skip",
            anomalies=2,
        )
    with pytest.raises(Diverged, match="on_anomaly: skip or rollback goes on"):
        run(make_context(directory=tmp_path / "b"), tiny_model_dir, [2], math.nan)


def test_a_spike_is_skipped(make_context, tiny_model_dir):
    context = make_context()
    run(context, tiny_model_dir, [7], 30.0, on_anomaly="skip", spike=20.0, batch_size=1, accumulation=1)
    assert [event["step"] for event in events(context)] == [25, 26, 27, 28]
    assert all("standard deviations above" in event["what"] for event in events(context))
