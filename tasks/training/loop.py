"""The training loop: every method trains through `train`, on the DeepSpeed engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tasks.stage import StepContext
from tasks.training.interface import Batch, Objective, Samples, TrainResult
from tasks.training.options import TrainOptions

__all__ = ["Batch", "Objective", "Samples", "TrainOptions", "TrainResult", "train"]


def train(
    context: StepContext,
    model: torch.nn.Module,
    samples: Samples,
    objective: Objective,
    options: TrainOptions,
    *,
    log_path: Path,
    check_first_batch: Callable[[torch.nn.Module, Batch], None] | None = None,
) -> TrainResult:
    """Trains `model` in place; a killed training that is run again ends with the same weights.

    Args:
        context: The step's context: seed, checkpoints, progress.
        model: The module to train; only parameters with `requires_grad` change.
        samples: The training set.
        objective: What to minimise.
        options: Options of the loop.
        log_path: The training log to write, `training.jsonl`; `header.json` is written beside it.
        check_first_batch: Called once, before the first step of a training that starts at its beginning, with
            the model and the first micro-batch, gradients off; raises where a known value is not met.

    Returns:
        What was done, over all restarts.

    Raises:
        ConfigInvalid: The data is smaller than one optimiser step, or no parameter is trainable.
        Infrastructure: Progress was recorded but no complete checkpoint is left, and not `context.fresh`.
        Diverged: The loss is NaN, infinite or exactly 0.
        OutOfMemory: The device's memory is not enough.
        Preempted: SIGTERM came; a checkpoint was written.
    """
    raise NotImplementedError
