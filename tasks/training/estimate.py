"""What a training will need, from facts and options alone. No torch here: the planner calls it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tasks.stage import Estimate
from tasks.training.options import BESIDE, TrainOptions

PROCESS_BYTES = 700 * 2**20
"""A process with torch, transformers and DeepSpeed imported, before it loads anything (on the CPU)."""

ACTIVATION_FACTOR = 34
"""Bytes per token, layer and hidden unit of 16-bit activations (Korthikanti et al., arXiv 2205.05198)."""

LOGIT_BYTES = 16
"""Per logit: as computed, in fp32, its log-softmax and its gradient."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes that one process of a training needs at its peak, by what they hold."""

    process: int
    weights: int
    gradients: int
    optimiser: int
    copies: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, part.name) for part in fields(self))

    def in_words(self) -> str:
        """`weights 10 MiB + gradients 10 MiB + ... = 1,234 MiB`."""
        parts = [f"{part.name} {getattr(self, part.name) / 2**20:,.0f}" for part in fields(self)]
        return f"{' + '.join(parts)} = {self.total / 2**20:,.0f} MiB"


def memory_parts(
    options: TrainOptions,
    *,
    parameters: int,
    trained: int,
    longest: int,
    shape: tuple[int, int, int],
    processes: int = 1,
) -> MemoryParts:
    """Peak memory of one process, from sizes alone.

    Args:
        options: Options of the training.
        parameters: Of the whole model.
        trained: Those that change.
        longest: Tokens of the longest sample.
        shape: Hidden units, layers and vocabulary.
        processes: Over which ZeRO splits: stage 1 the optimiser's state, 2 also gradients, 3 also weights.
    """
    hidden, layers, vocabulary = shape
    width = 4 if options.precision == "fp32" else 2
    moments = 8 if options.precision == "fp32" else 16  # beside AdamW's two, the fp32 weights and gradients
    tokens = options.batch_size * longest

    def split(size: int, stage: int) -> int:
        return size // processes if options.zero_stage >= stage else size

    # The divergence keeps the start model; the distance to it, Mixout and EMA each keep fp32 weights.
    frozen_copy = width * parameters if options.kl_weight and options.trainable not in BESIDE else 0
    kept = sum(1 for value in (options.l2_start, options.mixout, options.ema) if value)
    whole_layers = layers
    checkpointed = 0
    if options.activation_checkpointing:  # each layer's input stays, and one layer is computed again
        whole_layers, checkpointed = 1, width * tokens * hidden * layers
    return MemoryParts(
        process=PROCESS_BYTES,
        weights=0 if options.offload_parameters else split(width * parameters, 3),
        gradients=split(width * trained, 2),
        optimiser=0 if options.offload_optimiser else split(moments * trained, 1),
        copies=frozen_copy + 4 * trained * kept,
        activations=ACTIVATION_FACTOR * width // 2 * tokens * hidden * whole_layers + checkpointed,
        logits=LOGIT_BYTES * min(tokens, options.loss_chunk or tokens) * vocabulary,
    )


def checkpoint_bytes(options: TrainOptions, trained: int) -> int:
    """Bytes of one checkpoint: the trained weights and the optimiser's state, over all processes."""
    return trained * (12 if options.precision == "fp32" else 14)


def training_memory(options: TrainOptions, model: Mapping[str, Any], sequence_length: int) -> int | None:
    """Peak bytes of a process that trains `model` alone, or None where the model is not known yet.

    Args:
        options: Options of the training.
        model: Facts of the model (`models.model_meta`).
        sequence_length: Tokens of the longest sample.
    """
    if not all(model.get(name) for name in ("parameters", "hidden", "layers", "vocab_size")):
        return None
    # What an adapter or a soft prompt trains is small beside what it leaves alone.
    trained = 0 if options.trainable in BESIDE else model["parameters"]
    return memory_parts(
        options,
        parameters=model["parameters"],
        trained=trained,
        longest=sequence_length,
        shape=(model["hidden"], model["layers"], model["vocab_size"]),
    ).total


def training_estimate(
    options: TrainOptions,
    model: Mapping[str, Any],
    *,
    samples: int | None,
    tokens: int | None,
    sequence_length: int,
    processes: int = 1,
) -> Estimate:
    """The estimate of a training step.

    Args:
        options: Options of the training.
        model: Facts of the start model; empty where not known yet.
        samples: Samples of one epoch, or None.
        tokens: Tokens of one epoch, or None.
        sequence_length: Tokens of the longest sample.
        processes: How many train together.
    """
    steps = seen = None
    if samples:
        per_step = options.batch_size * options.accumulation * processes
        steps = math.ceil(math.ceil(round(samples * options.epochs, 6)) / per_step)
        share = 1.0 if options.max_steps is None else min(1.0, options.max_steps / steps)
        steps = steps if options.max_steps is None else min(steps, options.max_steps)
        seen = None if tokens is None else round(tokens * options.epochs * share)
    disk = None
    if model.get("parameters"):
        trained = 0 if options.trainable in BESIDE else model["parameters"]
        kept = options.keep_checkpoints + 1 + int(options.keep_best)  # one more is being written
        disk = checkpoint_bytes(options, trained) * kept + 4 * model["parameters"]
    return Estimate(
        tokens=seen,
        optimiser_steps=steps,
        memory_bytes=training_memory(options, model, sequence_length),
        disk_bytes=disk,
        meta={"model": dict(model)},
    )
