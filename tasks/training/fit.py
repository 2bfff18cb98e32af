"""How every training method trains: choose what changes, train it, give back a whole model."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tasks.stage import StepContext
from tasks.training import order
from tasks.training.interface import Batch, Objective, Regulariser, Samples, TrainResult
from tasks.training.loop import train
from tasks.training.models import load_model
from tasks.training.options import TrainOptions
from tasks.training.regularisers.ema import ema
from tasks.training.regularisers.kl_start import kl_start
from tasks.training.regularisers.l2_start import l2_start
from tasks.training.regularisers.mixout import mixout
from tasks.training.rows import flat_rows
from tasks.training.schedule import Extension
from tasks.training.trainable import lora, others
from tasks.training.trainable.adalora import prune_ranks
from tasks.training.trainable.adapter import (
    adapter_weights,
    add_adapter,
    load_adapter,
    merge_adapter,
    subtract_adapter,
)
from tasks.training.trainable.eva import start_eva
from tasks.training.trainable.soft_prompt import SoftPrompt, merge_soft_prompt
from tasks.training.trainable.weights import WEIGHTS, freeze

ADAPTERS: Mapping[str, Callable[[TrainOptions, int, int], PeftConfig]] = {
    "lora": lora.lora,
    "rslora": lora.rslora,
    "dora": lora.dora,
    "pissa": lora.pissa,
    "eva": lora.eva,
    "adalora": lora.adalora,
    "loha": others.loha,
    "lokr": others.lokr,
    "vera": others.vera,
    "ia3": others.ia3,
}
"""Name -> the adapter's configuration from options, optimiser steps and seed."""

REGULARISERS: Mapping[str, Callable[[torch.nn.Module, Objective, float], Regulariser]] = {
    "kl_weight": kl_start,
    "l2_start": l2_start,
    "mixout": mixout,
    "ema": ema,
}
"""Option -> the regulariser from the model with its start weights, the objective and the option's value.

The order matters: the divergence copies the model before Mixout changes how its layers compute."""


def fit(
    context: StepContext,
    start: Path,
    model: PreTrainedModel,
    samples: Samples,
    objective: Objective,
    options: TrainOptions,
    *,
    log_path: Path,
    check_first_batch: Callable[[torch.nn.Module, Batch], None] | None = None,
    extension: Extension | None = None,
    keep_adapter: Callable[[PeftModel], None] | None = None,
) -> tuple[PreTrainedModel, TrainResult]:
    """Trains `model`, or what `options.trainable` puts beside its weights.

    Args:
        context: The step's context.
        start: The directory `model` was loaded from. An adapter is merged into the weights as they came,
            whatever the training's precision.
        model: The start model, with its soft prompt where one is trained; used up.
        samples: The training set.
        objective: What to minimise.
        options: Options of the loop.
        log_path: The training log to write.
        check_first_batch: See `tasks.training.loop.train`.
        extension: See there too.
        keep_adapter: Gets the trained adapter beside the model as it came, in fp32, before it is merged.

    Returns:
        The whole trained model and what was done.

    Raises:
        What `train` raises, and ConfigInvalid where the options do not fit the model; SystemExit, with 0, on
        every process but the first once the training is done.
    """

    def run(trained: torch.nn.Module, more: list[Regulariser]) -> TrainResult:
        chosen = [
            make(trained, objective, getattr(options, name))
            for name, make in REGULARISERS.items()
            if getattr(options, name)
        ]
        done = train(
            context,
            trained,
            samples,
            objective,
            options,
            log_path=log_path,
            check_first_batch=check_first_batch,
            regularisers=[*chosen, *more],
            extension=extension,
        )
        if torch.distributed.get_rank() > 0:
            raise SystemExit(0)  # the first process has the whole model: saving and registering are its work
        return done

    if options.trainable in WEIGHTS:
        WEIGHTS[options.trainable](model, context.seed)
        freeze(model, options.frozen)
        done = run(model, [])
        model.requires_grad_(True)
        return model, done

    row_BT = flat_rows(samples.batch([0]))["input_ids_BT"][:1]
    if isinstance(model.get_input_embeddings(), SoftPrompt):
        done = run(model, [])
        return merge_soft_prompt(model, load_model(start)[0], row_BT), done

    adapted = add_adapter(model, _config(options, samples, context.seed), context.seed)
    if options.trainable == "eva":
        start_eva(adapted, samples, options.batch_size, context.seed)
    config = adapted.peft_config["default"]
    first = adapter_weights(adapted) if options.trainable == "pissa" else {}
    done = run(adapted, [prune_ranks(adapted, objective)] if options.trainable == "adalora" else [])
    weights = adapter_weights(adapted)
    del adapted, model
    merging = _untouched(start, config, context.seed, first)
    load_adapter(merging, weights)
    if keep_adapter is not None:
        keep_adapter(merging)
    return merge_adapter(merging, row_BT), done


def _config(options: TrainOptions, samples: Samples, seed: int) -> PeftConfig:
    per_step = options.batch_size * options.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
    total = order.total_samples(len(samples), options.epochs, per_step, options.max_steps)
    return ADAPTERS[options.trainable](options, -(-total // per_step), seed)


def _untouched(start: Path, config: PeftConfig, seed: int, first: Mapping[str, Tensor]) -> PeftModel:
    """The start model as it came, in fp32, with an adapter of the trained one's shape.

    Args:
        start: The model's directory.
        config: The trained adapter's.
        seed: Any; the adapter is about to be overwritten.
        first: The adapter's first weights, where its start took their product out of the model's.
    """
    plain: Any = copy.deepcopy(config)
    plain.inference_mode = False
    if isinstance(plain, AdaLoraConfig):
        plain.rank_pattern = None  # what was pruned is 0 in the weights
    if hasattr(plain, "init_lora_weights"):
        plain.init_lora_weights = True
    if getattr(plain, "eva_config", None) is not None:
        plain.eva_config = None  # it says how the start was found; the file of an adapter has no place for it
    untouched, _ = load_model(start)
    merging = add_adapter(untouched, plain, seed)
    if first:
        load_adapter(merging, first)
        subtract_adapter(merging)
    return merging
