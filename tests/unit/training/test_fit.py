"""Everything that can be trained trains, changes only what it may, is the same by seed and after a stop."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.recipe.failures import ConfigInvalid, Preempted
from tasks.training import fit as fit_module
from tasks.training.fit import ADAPTERS, REGULARISERS, fit
from tasks.training.interface import NOT_SUPERVISED, Batch, TrainResult
from tasks.training.loop import train
from tasks.training.models import load_model, save_model
from tasks.training.objectives.causal_lm import CAUSAL_LM
from tasks.training.options import ADAPTERS as ADAPTER_OPTIONS
from tasks.training.options import TrainOptions

OPTIONS: dict[str, Any] = {"lr": 3e-3, "warmup": 0.1, "threads": 1, "epochs": 1.0, "batch_size": 4}

Weights = dict[str, torch.Tensor]


class Rows:
    """32 rows of 16 tokens, each a walk through the vocabulary; the first two not supervised."""

    tokens = 32 * 16
    longest = 16

    def __len__(self) -> int:
        return 32

    def batch(self, indices: Sequence[int]) -> Batch:
        ids_BT = torch.stack([(7 * i + torch.arange(16) * (1 + i % 3)) % 290 + 6 for i in indices])
        labels_BT = ids_BT.clone()
        labels_BT[:, :2] = NOT_SUPERVISED
        positions_BT = torch.arange(16).expand_as(ids_BT).contiguous()
        return {"input_ids_BT": ids_BT, "position_ids_BT": positions_BT, "labels_BT": labels_BT}


def run(context: Any, model_dir: Path, **options: Any) -> tuple[TrainResult, Weights]:
    model, _ = load_model(model_dir, options.get("precision", "fp32"))
    trained, result = fit(
        context,
        model_dir,
        model,
        Rows(),
        CAUSAL_LM,
        TrainOptions(**{**OPTIONS, **options}),
        log_path=context.output("log") / "training.jsonl",
    )
    return result, {name: p.detach().clone() for name, p in trained.named_parameters()}


def weights_of(model_dir: Path) -> Weights:
    return {name: p.detach() for name, p in load_model(model_dir)[0].named_parameters()}


def changed(weights: Weights, start: Weights) -> set[str]:
    assert weights.keys() == start.keys()
    # Merging a weight that an adapter did not move may round.
    return {name for name in start if not torch.allclose(weights[name], start[name], rtol=0, atol=1e-6)}


def stopped_and_resumed(make: Any, directory: Path, model_dir: Path, **options: Any) -> Weights:
    context = make(directory=directory)
    context.stop_after = 5
    with pytest.raises(Preempted):
        run(context, model_dir, **options)
    context.stop_after = None
    return run(context, model_dir, **options)[1]


LINEAR = {
    f"model.layers.{block}.{part}.weight"
    for block in (0, 1)
    for part in (
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    )
}
SCALED = {name for name in LINEAR if any(part in name for part in ("k_proj", "v_proj", "down_proj"))}
TOUCHED = {"ia3": SCALED}
FAST = {"ia3": {"lr": 3e-2}, "vera": {"lr": 3e-2}}


def test_both_tables_of_adapters_have_the_same_names():
    assert ADAPTERS.keys() == ADAPTER_OPTIONS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_adapter_learns_changes_its_targets_only_and_resumes_exactly(
    name, make_context, tiny_model_dir, tmp_path
):
    options = {"trainable": name, **FAST.get(name, {})}
    if "lora_rank" in ADAPTER_OPTIONS[name]:
        options["lora_rank"] = 4
    result, weights = run(make_context(directory=tmp_path / "straight"), tiny_model_dir, **options)
    assert result.final_loss < result.first_loss
    assert changed(weights, weights_of(tiny_model_dir)) == TOUCHED.get(name, LINEAR)
    resumed = stopped_and_resumed(make_context, tmp_path / "stopped", tiny_model_dir, **options)
    assert all(torch.equal(resumed[each], weights[each]) for each in weights)
    _, other = run(make_context(directory=tmp_path / "other", seed=1), tiny_model_dir, **options)
    assert any(not torch.equal(other[each], weights[each]) for each in weights)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_what_is_handed_back_computes_what_was_trained(name, make_context, tiny_model_dir, monkeypatch):
    ids_BT = Rows().batch([3, 4])["input_ids_BT"]
    logits = []

    def noting(context: Any, model: torch.nn.Module, *given: Any, **more: Any) -> TrainResult:
        result = train(context, model, *given, **more)
        with torch.no_grad():
            logits.append(model(input_ids=ids_BT).logits)
        return result

    monkeypatch.setattr(fit_module, "train", noting)
    model, _ = load_model(tiny_model_dir)
    options = {**OPTIONS, "trainable": name, "lr": 3e-2}
    if "lora_rank" in ADAPTER_OPTIONS[name]:
        options["lora_rank"] = 4
    log_path = make_context().output("log") / "training.jsonl"
    trained, _ = fit(
        make_context(), tiny_model_dir, model, Rows(), CAUSAL_LM, TrainOptions(**options), log_path=log_path
    )
    with torch.no_grad():
        torch.testing.assert_close(trained(input_ids=ids_BT).logits, logits[0], rtol=0, atol=2e-3)
        untouched = load_model(tiny_model_dir)[0](input_ids=ids_BT).logits
    assert float((untouched - logits[0]).abs().max()) > 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"zero_stage": 3}, {"precision": "bf16", "zero_stage": 1}])
@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"adalora"}))
def test_an_adapter_trains_partitioned_and_in_16_bit(name, how, make_context, tiny_model_dir, tmp_path):
    options = {"trainable": name, **FAST.get(name, {}), **how}
    if "lora_rank" in ADAPTER_OPTIONS[name]:
        options["lora_rank"] = 4
    result, weights = run(make_context(directory=tmp_path / "straight"), tiny_model_dir, **options)
    assert result.final_loss < result.first_loss
    assert changed(weights, weights_of(tiny_model_dir)) == TOUCHED.get(name, LINEAR)
    resumed = stopped_and_resumed(make_context, tmp_path / "stopped", tiny_model_dir, **options)
    assert all(torch.equal(resumed[each], weights[each]) for each in weights)


@pytest.mark.parametrize("name", ["layernorm", "half"])
def test_a_part_of_the_weights_learns(name, make_context, tiny_model_dir, tmp_path):
    options = {"trainable": name, "lr": 1e-2}
    result, weights = run(make_context(directory=tmp_path / "straight"), tiny_model_dir, **options)
    assert result.final_loss < result.first_loss
    moved = changed(weights, weights_of(tiny_model_dir))
    norms = {each for each in weights if "norm" in each}
    if name == "layernorm":
        assert moved == norms
    else:
        assert len(moved & LINEAR) == 7  # 2 + 2 of 2 * 4 in attention, 1 + 2 of 2 * 3 beside it
        assert moved - LINEAR - norms == {"model.embed_tokens.weight"}
        assert len(moved & norms) == 3  # one of each block's two, and the last
    resumed = stopped_and_resumed(make_context, tmp_path / "stopped", tiny_model_dir, **options)
    assert all(torch.equal(resumed[each], weights[each]) for each in weights)


VALUES = {"kl_weight": 0.5, "l2_start": 0.1, "mixout": 0.3, "ema": 0.7}


def test_every_regulariser_is_tested():
    assert VALUES.keys() == REGULARISERS.keys()


@pytest.mark.parametrize("zero_stage", [0, 2])
@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_regularised_training_resumes_exactly(name, zero_stage, make_context, tiny_model_dir, tmp_path):
    options = {name: VALUES[name], "zero_stage": zero_stage}
    _, weights = run(make_context(directory=tmp_path / "straight"), tiny_model_dir, **options)
    resumed = stopped_and_resumed(make_context, tmp_path / "stopped", tiny_model_dir, **options)
    assert all(torch.equal(resumed[each], weights[each]) for each in weights)
    _, plain = run(make_context(directory=tmp_path / "plain"), tiny_model_dir, zero_stage=zero_stage)
    assert any(not torch.equal(plain[each], weights[each]) for each in weights)


@pytest.mark.parametrize("options", [{"kl_weight": 0.5}, {"ema": 0.7}])
def test_an_adapter_can_be_regularised(options, make_context, tiny_model_dir, tmp_path):
    options = {"trainable": "lora", "lora_rank": 4, "lr": 1e-2, **options}
    _, weights = run(make_context(directory=tmp_path / "straight"), tiny_model_dir, **options)
    resumed = stopped_and_resumed(make_context, tmp_path / "stopped", tiny_model_dir, **options)
    assert all(torch.equal(resumed[each], weights[each]) for each in weights)
    assert changed(weights, weights_of(tiny_model_dir)) == LINEAR


def test_mixout_leaves_a_model_that_computes_as_any_other(make_context, tiny_model_dir, tmp_path):
    model, tokenizer = load_model(tiny_model_dir)
    trained, _ = fit(
        make_context(),
        tiny_model_dir,
        model,
        Rows(),
        CAUSAL_LM,
        TrainOptions(**OPTIONS, mixout=0.5),
        log_path=tmp_path / "log" / "training.jsonl",
    )
    save_model(trained, tokenizer, tmp_path / "out")  # compares the logits after reading back
    assert not any("forward" in vars(module) for module in trained.modules())


def test_frozen_patterns_hold_and_a_wrong_one_is_refused(make_context, tiny_model_dir, tmp_path):
    frozen = ["lm_head.weight", "*.mlp.*"]  # the head is tied to the embedding
    _, weights = run(make_context(directory=tmp_path / "a"), tiny_model_dir, frozen=frozen)
    start = weights_of(tiny_model_dir)
    still = start.keys() - changed(weights, start)
    assert still == {each for each in start if ".mlp." in each or "embed" in each}
    with pytest.raises(ConfigInvalid, match=r"'model.norm.weigth'.*model.norm.weight"):
        run(make_context(directory=tmp_path / "b"), tiny_model_dir, frozen=["model.norm.weigth"])


def test_all_frozen_is_refused(make_context, tiny_model_dir):
    with pytest.raises(ConfigInvalid, match="no parameter"):
        run(make_context(), tiny_model_dir, frozen=["*"])


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_gradual_unfreezing_and_rates_by_depth_resume_exactly(
    zero_stage, make_context, tiny_model_dir, tmp_path
):
    options = {"unfreeze": 0.8, "layer_decay": 0.5, "zero_stage": zero_stage}
    _, weights = run(make_context(directory=tmp_path / "straight"), tiny_model_dir, **options)
    resumed = stopped_and_resumed(make_context, tmp_path / "stopped", tiny_model_dir, **options)
    assert all(torch.equal(resumed[each], weights[each]) for each in weights)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_layers_that_are_not_open_do_not_count_in_the_gradients_norm(
    zero_stage, make_context, tiny_model_dir, tmp_path
):
    norms = []
    for unfreeze in (0.0, 0.8):
        context = make_context(directory=tmp_path / f"{unfreeze}")
        run(context, tiny_model_dir, unfreeze=unfreeze, zero_stage=zero_stage)
        rows = (context.output("log") / "training.jsonl").read_text().splitlines()
        norms.append([json.loads(row)["gradient_norm"] for row in rows])
    assert 0 < norms[1][0] < 0.5 * norms[0][0]
    assert norms[1][-1] > 0.5 * norms[0][-1]  # all are open


def test_checkpointed_activations_give_the_same_weights(make_context, tiny_model_dir, tmp_path):
    for trainable in ("full", "lora"):
        weights = [
            run(
                make_context(directory=tmp_path / f"{trainable}-{on}"),
                tiny_model_dir,
                trainable=trainable,
                activation_checkpointing=on,
            )[1]
            for on in (False, True)
        ]
        assert all(torch.equal(weights[0][each], weights[1][each]) for each in weights[0])


@pytest.mark.slow
# The compiler looks at every module that is loaded, and Airflow warns of attributes that are looked at.
@pytest.mark.filterwarnings("ignore::airflow.utils.deprecation_tools.DeprecatedImportWarning")
def test_compiled_blocks_train_alike(make_context, tiny_model_dir, tmp_path):
    weights = [
        run(
            make_context(directory=tmp_path / f"{on}"),
            tiny_model_dir,
            compile=on,
            activation_checkpointing=on,
            max_steps=3,
        )[1]
        for on in (False, True)
    ]
    for each in weights[0]:
        torch.testing.assert_close(weights[1][each], weights[0][each], rtol=0, atol=1e-4)
    assert any(not torch.equal(weights[0][each], weights[1][each]) for each in weights[0])


def test_muon_resumes_exactly(make_context, tiny_model_dir, tmp_path):
    options = {"optimiser": "muon", "muon_lr": 0.01}
    _, weights = run(make_context(directory=tmp_path / "straight"), tiny_model_dir, **options)
    resumed = stopped_and_resumed(make_context, tmp_path / "stopped", tiny_model_dir, **options)
    assert all(torch.equal(resumed[each], weights[each]) for each in weights)
