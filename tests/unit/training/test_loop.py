import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Diverged, Infrastructure, OutOfMemory, Preempted
from tasks.training.interface import NOT_SUPERVISED, Batch, Objective, Samples, TrainResult
from tasks.training.loop import TrainOptions, train
from tasks.training.models import load_model
from tasks.training.objectives.causal_lm import CAUSAL_LM
from tasks.training.order import indices_at

OPTIONS = {"lr": 1e-3, "warmup": 0.1, "threads": 1, "epochs": 1.0}


class RandomRows:
    """32 rows of 16 random tokens with very different numbers of supervised ones."""

    tokens = 32 * 16
    longest = 16

    def __len__(self) -> int:
        return 32

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = [torch.randint(6, 300, (16,), generator=torch.Generator().manual_seed(i)) for i in indices]
        ids_BT = torch.stack(rows)
        labels_BT = ids_BT.clone()
        for row, index in enumerate(indices):
            labels_BT[row, : index % 13] = NOT_SUPERVISED
        positions_BT = torch.arange(16).expand_as(ids_BT).contiguous()
        return {"input_ids_BT": ids_BT, "position_ids_BT": positions_BT, "labels_BT": labels_BT}


def run(
    context: Any,
    model_dir: Path,
    objective: Objective = CAUSAL_LM,
    samples: Samples | None = None,
    check: Callable[[torch.nn.Module, Batch], None] | None = None,
    **options: Any,
) -> tuple[TrainResult, torch.Tensor]:
    model, _ = load_model(model_dir)
    result = train(
        context,
        model,
        samples or RandomRows(),
        objective,
        TrainOptions(**{**OPTIONS, **options}),
        log_path=context.output("log") / "training.jsonl",
        check_first_batch=check,
    )
    return result, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def rows_of(context: Any) -> list[dict[str, float]]:
    return [json.loads(row) for row in (context.output("log") / "training.jsonl").read_text().splitlines()]


def test_micro_batches_and_accumulation_do_not_change_the_training(make_context, tiny_model_dir, tmp_path):
    weights, losses = [], []
    for batch_size, accumulation in ((8, 1), (4, 2), (2, 4)):
        context = make_context(directory=tmp_path / f"{batch_size}")
        _, trained = run(context, tiny_model_dir, batch_size=batch_size, accumulation=accumulation)
        weights.append(trained)
        losses.append([row["loss"] for row in rows_of(context)])
    for other in (1, 2):
        torch.testing.assert_close(weights[other], weights[0], rtol=0, atol=1e-6)
        assert losses[other] == pytest.approx(losses[0], abs=1e-5)


def test_a_step_is_adamw_on_the_mean_over_supervised_tokens(make_context, tiny_model_dir):
    _, trained = run(
        make_context(), tiny_model_dir, batch_size=16, max_steps=1, warmup=0.0, schedule="constant", clip=0.0
    )
    model, _ = load_model(tiny_model_dir)
    batch = RandomRows().batch(indices_at(0, 32, 0, 16).tolist())
    mean = CAUSAL_LM.loss(model, batch)[0] / CAUSAL_LM.weight(batch)
    torch.autograd.backward(mean)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)).step()
    expected = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.testing.assert_close(trained, expected, rtol=0, atol=1e-6)


def test_the_last_step_takes_what_is_left(make_context, tiny_model_dir):
    context = make_context()
    result, _ = run(context, tiny_model_dir, batch_size=3, accumulation=3, epochs=0.9)
    assert (result.steps, result.samples, result.tokens) == (4, 29, 29 * 16)
    assert [row["samples"] for row in rows_of(context)] == [9, 18, 27, 29]


def test_loss_falls_and_the_log_says_how_it_was_made(make_context, tiny_model_dir):
    context = make_context()
    result, _ = run(context, tiny_model_dir, batch_size=8, epochs=6.0, lr=5e-3)
    assert result.final_loss < result.first_loss - 0.2
    header = json.loads((context.output("log") / "header.json").read_text())
    assert (header["threads"], header["world_size"], header["objective"]) == (1, 1, "causal_lm")
    assert {name for name, _, _ in context.points} >= {"loss", "lr", "tokens_per_second"}
    assert context.said[-1][0] == 1.0


def test_preempted_then_resumed_equals_straight(make_context, tiny_model_dir, tmp_path):
    straight = make_context(directory=tmp_path / "straight")
    _, expected = run(straight, tiny_model_dir, batch_size=4)
    context = make_context(directory=tmp_path / "stopped")
    context.stop_after = 3
    with pytest.raises(Preempted, match="saved its state at optimiser step 3 of 8"):
        run(context, tiny_model_dir, batch_size=4)
    context.stop_after = None
    _, resumed = run(context, tiny_model_dir, batch_size=4)
    assert torch.equal(resumed, expected)
    assert rows_of(context) == rows_of(straight)
    assert "resumed at step 3" in [said for _, said in context.said]


def test_another_geometry_is_refused_on_resume(make_context, tiny_model_dir):
    context = make_context()
    run(context, tiny_model_dir, batch_size=4)
    with pytest.raises(
        ConfigInvalid, match="its checkpoint takes 4 samples in an optimiser step, but batch_size 8"
    ):
        run(context, tiny_model_dir, batch_size=8)


def test_lost_checkpoints_are_not_hidden_by_starting_over(make_context, tiny_model_dir):
    context = make_context()
    (context.checkpoints.root / "recorded").write_text("16")
    with pytest.raises(Infrastructure, match="had reached 16 samples"):
        run(context, tiny_model_dir)
    context.fresh = True
    assert run(context, tiny_model_dir)[0].samples == 32


def _scaled(factor: float) -> Objective:
    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, figures = CAUSAL_LM.loss(model, batch)
        return total * factor, figures

    return Objective("scaled", loss, CAUSAL_LM.weight)


@pytest.mark.parametrize(
    ("factor", "what"), [(float("nan"), "nan"), (float("inf"), "inf"), (0.0, "exactly 0")]
)
def test_a_loss_that_cannot_be_right_stops_before_the_weights(factor, what, make_context, tiny_model_dir):
    with pytest.raises(Diverged, match=f"{what} at optimiser step 1.*Lower lr"):
        run(make_context(), tiny_model_dir, objective=_scaled(factor))


def test_a_run_that_diverges_ends_well_with_a_lower_learning_rate(make_context, tiny_model_dir):
    with pytest.raises(Diverged, match="Lower lr"):
        run(make_context(), tiny_model_dir, lr=1e30, epochs=3.0)
    _, weights = run(make_context(), tiny_model_dir, lr=1e-3, epochs=3.0)
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_gradient_that_is_not_finite_stops_before_the_weights(zero_stage, make_context, tiny_model_dir):
    def loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, figures = CAUSAL_LM.loss(model, batch)
        return total + torch.sqrt(total - total.detach()), figures  # finite, with an infinite slope

    with pytest.raises(Diverged, match=r"gradient's norm is (nan|inf) at optimiser step 1"):
        run(
            make_context(),
            tiny_model_dir,
            objective=Objective("cliff", loss, CAUSAL_LM.weight),
            zero_stage=zero_stage,
        )


def test_less_data_than_one_step_is_refused(make_context, tiny_model_dir):
    with pytest.raises(ConfigInvalid, match="has 32 samples"):
        run(make_context(), tiny_model_dir, batch_size=33)


def test_a_step_without_supervision_is_refused(make_context, tiny_model_dir):
    class Nothing(RandomRows):
        def batch(self, indices: Sequence[int]) -> Batch:
            batch = super().batch(indices)
            batch["labels_BT"][:] = NOT_SUPERVISED
            return batch

    with pytest.raises(DataInvalid, match="nothing to learn"):
        run(make_context(), tiny_model_dir, samples=Nothing())


def test_a_model_with_nothing_to_train_is_refused(make_context, tiny_model_dir):
    model, _ = load_model(tiny_model_dir)
    model.requires_grad_(False)
    context = make_context()
    with pytest.raises(ConfigInvalid, match="no parameter"):
        train(
            context,
            model,
            RandomRows(),
            CAUSAL_LM,
            TrainOptions(**OPTIONS),
            log_path=context.output("log") / "training.jsonl",
        )


def test_out_of_memory_names_the_options_in_order(make_context, tiny_model_dir):
    def loss(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    with pytest.raises(OutOfMemory, match=r"halve batch_size \(8\).*zero_stage \(0\).*precision"):
        run(make_context(), tiny_model_dir, objective=Objective("big", loss, CAUSAL_LM.weight))


def test_the_first_batch_is_checked_once_and_not_on_resume(make_context, tiny_model_dir):
    seen = []

    def check(model, batch):
        assert not torch.is_grad_enabled()
        seen.append(tuple(batch["input_ids_BT"].shape))

    context = make_context()
    context.stop_after = 2
    with pytest.raises(Preempted):
        run(context, tiny_model_dir, check=check)
    context.stop_after = None
    run(context, tiny_model_dir, check=check)
    assert seen == [(8, 16)]


def test_frozen_parameters_stay(make_context, tiny_model_dir):
    model, _ = load_model(tiny_model_dir)
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    before = model.model.embed_tokens.weight.clone()
    context = make_context()
    context.stop_after = 2
    arguments = (context, model, RandomRows(), CAUSAL_LM, TrainOptions(**OPTIONS))
    with pytest.raises(Preempted):
        train(*arguments, log_path=context.output("log") / "training.jsonl")
    context.stop_after = None
    train(*arguments, log_path=context.output("log") / "training.jsonl")
    assert torch.equal(model.model.embed_tokens.weight, before)
    assert not torch.equal(model.model.norm.weight, torch.ones(32))
