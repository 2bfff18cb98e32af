"""What a checkpoint holds, how it is written, and how a training goes on from it."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tasks.recipe.failures import ConfigInvalid, Infrastructure
from tasks.stage import StepContext
from tasks.training.checkpoint_data import as_data
from tasks.training.elastic import UNIVERSAL, to_universal
from tasks.training.interface import Regulariser
from tasks.training.log import line, read_rows
from tasks.training.process import Process
from tasks.training.uploads import Uploads

ENGINE = "engine"
"""The tag of DeepSpeed's own files. Each checkpoint has a directory of its own: shards of two never mix."""


@dataclass(frozen=True)
class Geometry:
    """What must not change between a checkpoint and the training that goes on from it."""

    objective: str
    seed: int
    samples_per_epoch: int
    samples_total: int
    samples_per_step: int
    zero_stage: int
    precision: str


@dataclass
class State:
    """How far a training is; the position in the data is a count of samples.

    Attributes:
        geometry: What it must keep.
        threads: CPU threads of the process that began it.
        samples: Samples passed, those left out included.
        tokens: Tokens trained on.
        tokens_passed: Tokens of the samples passed, those left out included: what the schedule follows.
        steps: Optimiser steps passed, those left out included.
        rows: The training log so far.
        events: Anomalies and what was done about them.
        kept: Positions of the checkpoints that are kept, oldest first.
        best: Position and mean loss of the best checkpoint.
    """

    geometry: Geometry
    threads: int
    samples: int = 0
    tokens: int = 0
    steps: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    best: tuple[int, float] | None = None
    tokens_passed: int = 0


@dataclass(frozen=True)
class Found:
    """A complete checkpoint, and the facts that must be known before an engine is made for it."""

    directory: Path
    geometry: Geometry
    threads: int
    world_size: int


def find(context: StepContext) -> Found | None:
    """The newest complete checkpoint, or None to start at the beginning.

    Raises:
        Infrastructure: Progress was recorded and no checkpoint is left, and no fresh start was allowed.
    """
    newest = context.checkpoints.newest()
    recorded = context.checkpoints.recorded()
    if newest is None and recorded > 0 and not context.fresh:
        raise Infrastructure(
            f"step '{context.step}' had reached {recorded} samples, but none of its checkpoints is complete"
            " any more; restore them in the store, or run it with --fresh to start from the beginning"
        )
    if newest is None:
        return None
    facts = json.loads((newest[0] / "state.json").read_text(encoding="utf-8"))
    return Found(newest[0], Geometry(**facts["geometry"]), int(facts["threads"]), int(facts["world_size"]))


def keep(state: State, newest: int, last: int, best: bool) -> list[int]:
    """Positions of the checkpoints that stay once one at `newest` is published.

    Args:
        state: Its `kept` and `best` are brought up to date.
        newest: Position of the new one.
        last: How many of the newest stay.
        best: Whether the one with the lowest loss since the one before it stays too.
    """
    previous = state.kept[-1] if state.kept else 0
    losses = [row["loss"] for row in state.rows if previous < row["samples"] <= newest]
    mean = sum(losses) / len(losses) if losses else None
    if mean is not None and (state.best is None or mean < state.best[1]):
        state.best = (newest, mean)
    known = [*(position for position in state.kept if position < newest), newest]
    stay = set(known[-last:])
    if best and state.best is not None:
        stay.add(state.best[0])
    state.kept = [position for position in known if position in stay]
    return state.kept


def save(
    context: StepContext,
    engine: Any,
    state: State,
    process: Process,
    regularisers: Sequence[Regulariser],
    uploads: Uploads,
    keeping: tuple[int, bool],
    write_probe: Callable[[Path], None] | None,
) -> None:
    """Writes a checkpoint beside the others and publishes it in the background. Every process must call it.

    Args:
        context: The step's context.
        engine: Holds weights and optimiser.
        state: How far the training is.
        process: This process.
        regularisers: Whose state is kept too.
        uploads: Publishes the directory.
        keeping: How many of the newest checkpoints stay, and whether the best one stays.
        write_probe: Puts the probe batch and its loss into a directory; on one process only.
    """
    directory = context.work / f"checkpoint-{state.samples}"
    if process.rank == 0:
        uploads.wait()
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    _barrier(process)
    engine.save_checkpoint(
        str(directory), tag=ENGINE, save_latest=False, exclude_frozen_parameters=_any_frozen(engine)
    )
    save_file(_torch_rng(), directory / f"rng-{process.rank}.safetensors")
    (directory / f"rng-{process.rank}.json").write_text(json.dumps(_python_rng()), encoding="utf-8")
    if write_probe is not None:
        write_probe(directory)
    if process.rank == 0:
        for regulariser in regularisers:
            if regulariser.state is not None:
                save_file(regulariser.state(), directory / f"regulariser-{regulariser.name}.safetensors")
        stay = keep(state, state.samples, *keeping)
        facts = {
            "geometry": dataclasses.asdict(state.geometry),
            "threads": state.threads,
            "world_size": process.world_size,
            "samples": state.samples,
            "tokens": state.tokens,
            "tokens_passed": state.tokens_passed,
            "steps": state.steps,
            "rows": len(state.rows),
            "events": state.events,
            "kept": stay,
            "best": state.best,
        }
        (directory / "state.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        with (directory / "training.jsonl").open("w", encoding="utf-8") as stream:
            stream.writelines(line(row) for row in state.rows)
    _barrier(process)
    if process.rank == 0:
        uploads.start(directory, state.samples, stay)


def restore(
    context: StepContext,
    directory: Path,
    engine: Any,
    geometry: Geometry,
    process: Process,
    regularisers: Sequence[Regulariser],
) -> State:
    """Loads weights, optimiser, regularisers, random streams and position from a checkpoint.

    An engine for another number of processes than wrote it must have been made with `load_universal`.

    Raises:
        ConfigInvalid: The checkpoint belongs to a training of another geometry.
        Infrastructure: DeepSpeed could not load its part.
    """
    facts = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    found = Geometry(**facts["geometry"])
    if found != geometry:
        changed = [
            f"{name}: {value} -> {getattr(geometry, name)}"
            for name, value in dataclasses.asdict(found).items()
            if value != getattr(geometry, name)
        ]
        raise ConfigInvalid(
            f"the checkpoint at {facts['samples']} samples was written by another training"
            f" ({'; '.join(changed)}); go back to those settings, or run the step under changed options"
        )
    settings = [dict(group) for group in engine.optimizer.param_groups]
    source, tag = directory, ENGINE
    if engine.load_universal_checkpoint():
        source, tag = to_universal(directory, context.work, ENGINE, process), UNIVERSAL
    with as_data(directory):
        path, _ = engine.load_checkpoint(
            str(source), tag=tag, load_module_strict=not _any_frozen(engine), load_lr_scheduler_states=False
        )
    if path is None:
        raise Infrastructure(f"DeepSpeed found nothing to load in the checkpoint {directory}")
    if engine.load_universal_checkpoint():
        _mend_universal(engine, settings)
    for regulariser in regularisers:
        if regulariser.load is not None:
            regulariser.load(load_file(directory / f"regulariser-{regulariser.name}.safetensors"))
    _restore_random(directory, int(facts["world_size"]), int(facts["samples"]), geometry.seed, process)
    return State(
        geometry,
        facts["threads"],
        facts["samples"],
        facts["tokens"],
        facts["steps"],
        read_rows(directory / "training.jsonl"),
        facts["events"],
        facts["kept"],
        None if facts["best"] is None else (facts["best"][0], facts["best"][1]),
        facts["tokens_passed"],
    )


def _mend_universal(engine: Any, settings: Sequence[Mapping[str, Any]]) -> None:
    """Undoes what DeepSpeed 0.19 gets wrong when it loads a universal checkpoint under ZeRO 3.

    It gives every parameter group the first one's settings, so that norms would decay too; and all groups one
    tensor as their step count, which then goes up by the number of groups at each step.
    """
    for group, setting in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update({key: value for key, value in setting.items() if key != "params"})
    for state in getattr(engine.optimizer, "optimizer", engine.optimizer).state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def _restore_random(directory: Path, world_size: int, samples: int, seed: int, process: Process) -> None:
    """The random streams as they were; under another number of processes new ones, from seed and position."""
    if world_size != process.world_size:
        fresh = seed + samples * process.world_size + process.rank
        random.seed(fresh)
        np.random.seed(fresh % 2**32)
        torch.manual_seed(fresh)
        return
    rng = load_file(directory / f"rng-{process.rank}.safetensors")
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng:
        torch.cuda.set_rng_state(rng["cuda"])
    _set_python_rng(json.loads((directory / f"rng-{process.rank}.json").read_text(encoding="utf-8")))


def _any_frozen(engine: Any) -> bool:
    return any(not parameter.requires_grad for parameter in engine.module.parameters())


def _torch_rng() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _python_rng() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }


def _set_python_rng(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))


def _barrier(process: Process) -> None:
    if process.world_size > 1:
        torch.distributed.barrier()
