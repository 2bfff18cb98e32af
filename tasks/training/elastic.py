"""Goes on with another number of processes: the same optimiser steps, cut into other micro-batches."""

from __future__ import annotations

import contextlib
import io
import shutil
from argparse import Namespace
from pathlib import Path

import torch

from tasks.recipe.failures import ConfigInvalid, Infrastructure
from tasks.training.checkpoint_data import as_data
from tasks.training.options import TrainOptions
from tasks.training.process import Process

UNIVERSAL = "engine_universal"


def samples_per_step(options: TrainOptions, world_size: int) -> int:
    """Samples of one optimiser step over all processes."""
    return options.batch_size * options.accumulation * world_size


def keep_samples_per_step(
    options: TrainOptions, per_step: int, world_size: int, before: int, step: str
) -> TrainOptions:
    """The options under which `world_size` processes take the same optimiser steps as `before` did.

    Args:
        options: The step's options, as they were for `before` processes.
        per_step: Samples of an optimiser step in the checkpoint.
        world_size: Processes now.
        before: Processes that wrote the checkpoint.
        step: The step's name, for messages.

    Raises:
        ConfigInvalid: The options ask for other steps than the checkpoint's, or the samples of a step cannot
            be divided among the processes.
    """
    if samples_per_step(options, world_size) == per_step:
        return options
    if samples_per_step(options, before) != per_step:
        raise ConfigInvalid(
            f"step '{step}': its checkpoint takes {per_step} samples in an optimiser step, but batch_size "
            f"{options.batch_size} x accumulation {options.accumulation} x {world_size} processes are "
            f"{samples_per_step(options, world_size)}: the learning rate and the noise of the gradient were "
            f"chosen for the former. Keep the product, or start again with --fresh"
        )
    if per_step % world_size:
        fits = [number for number in range(1, per_step + 1) if per_step % number == 0]
        raise ConfigInvalid(
            f"step '{step}': the {per_step} samples of an optimiser step cannot be divided among "
            f"{world_size} processes; go on with one of {', '.join(map(str, fits[:12]))}"
        )
    share = per_step // world_size
    batch = max(size for size in range(1, min(options.batch_size, share) + 1) if share % size == 0)
    return options.model_copy(update={"batch_size": batch, "accumulation": share // batch})


def to_universal(directory: Path, work: Path, tag: str, process: Process) -> Path:
    """A directory with DeepSpeed's universal form of a checkpoint, from which any number of processes loads.

    Args:
        directory: The checkpoint; only read.
        work: Scratch.
        tag: The folder of DeepSpeed's own files in it.
        process: Rank 0 converts, the others wait.

    Raises:
        Infrastructure: DeepSpeed could not convert it.
    """
    target = work / "universal"
    if process.rank == 0:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        from deepspeed.checkpoint import ds_to_universal

        said = io.StringIO()
        arguments = Namespace(
            input_folder=str(directory / tag),
            output_folder=str(target / UNIVERSAL),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            # ZeRO 1 and 2 do not write the shapes of the parallel layout that only Megatron has.
            inject_missing_state=True,
        )
        try:
            with contextlib.redirect_stdout(said), as_data(directory):
                ds_to_universal.main(arguments)
        except (AssertionError, KeyError, ValueError, RuntimeError, OSError) as error:
            raise Infrastructure(
                f"the checkpoint {directory} was written by another number of processes, and DeepSpeed could "
                f"not convert it: {type(error).__name__}: {error}. Go on with the number it was written by"
            ) from error
    if process.world_size > 1:
        torch.distributed.barrier()
    return target
