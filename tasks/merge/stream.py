"""Merge the tensors of the parents one at a time and write a complete model directory.

At any moment only the tensors of one name are in memory: the parents' (as many as the method holds at once),
the base's and the result. All arithmetic is fp32; each tensor is stored in the first model's element type.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tasks.merge.options import MergeOptions
from tasks.merge.parents import Parent, Parents
from tasks.merge.verify import probe, verify_files
from tasks.merge.weights import Entry, ShardWriter, nbytes, plan_shards, write_index
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Diverged, Infrastructure, Preempted
from tasks.stage import Result, StepContext
from tasks.training.models import model_meta

Combine = Callable[[str, Iterator[torch.Tensor], torch.Tensor | None], torch.Tensor]
"""A method's arithmetic: (tensor name, the models' tensors in order, the base's tensor or None) -> result.

The iterator reads a parent only when asked, so a method that accumulates holds one parent at a time. The
tensors are fresh fp32 copies: the method may work in place on them, but not on the base's."""

COPIED = ("*.json", "*.jinja", "*.txt", "*.model")
"""The files beside the weights that make a model usable: configuration, tokenizer, chat template."""
NOT_COPIED = ("*.index.json", "adapter_*", "trainer_state.json", "training_args.json")


def merge(
    context: StepContext, options: MergeOptions, parents: Parents, combine: Combine, how: str
) -> Result:
    """Stream every tensor through `combine` into output `model`, verify what was written, and describe it.

    Args:
        context: The step; its output `model` receives the directory.
        options: Options of writing.
        parents: Checked models.
        combine: The method.
        how: The method in a few words for the figure, e.g. "slerp 0.5".

    Raises:
        DataInvalid: If a parent holds a value that is not finite; names the tensor and the model.
        Diverged: If the merge makes such a value.
        Infrastructure: If the disk cannot hold the result.
        Preempted: If the step was asked to stop.
    """
    out = context.output("model")
    entries = {name: _first_entry(parents, name) for name in parents.names}
    total = sum(nbytes(entry) for entry in entries.values())
    free = shutil.disk_usage(out).free
    if free < total:
        raise Infrastructure(f"{out}: the merged model needs {total:,} bytes, the disk has {free:,} free")
    moves = Moves(parents)
    shards = plan_shards(entries, options.shard_bytes)
    done = 0
    for file, names in shards.items():
        with ShardWriter(out / file, names, entries) as writer:
            for name in names:
                if context.stopping():
                    raise Preempted(
                        f"step '{context.step}': stopped while merging; a retry starts the merge again"
                    )
                writer.write(name, _merged(name, parents, combine, moves))
                done += nbytes(entries[name])
                context.progress(0.9 * done / max(total, 1), f"{done / max(total, 1):.0%} of the weights")
    write_index(out, shards, total)
    _copy_companions(parents, out)
    verify_files(out, shards, entries)
    if options.probe:
        probe(out)
    context.progress(1.0)
    return _result(parents, out, entries, moves.relative(), how)


def _merged(name: str, parents: Parents, combine: Combine, moves: Moves) -> torch.Tensor:
    """The merged tensor, ready to be written."""
    first = parents.models[0]
    if not first.weights.is_float(first.stored(name) or name):
        return _same_integers(name, parents)
    base = _read(parents.base, name) if parents.base else None

    def read() -> Iterator[torch.Tensor]:
        for index, model in enumerate(parents.models):
            tensor = _read(model, name)
            moves.add(index, tensor, base)
            yield tensor

    result = combine(name, read(), base)
    moves.add(len(parents.models), result, base)
    stored = first.weights.entries[first.stored(name) or name].dtype
    if not _finite(result) or (stored == "F16" and result.numel() and result.abs().max() > 65504):
        raise Diverged(
            f"the merged tensor '{name}' is not finite in {stored}; use a smaller scale or weights"
        )
    return result


def _read(parent: Parent, name: str) -> torch.Tensor:
    tensor = parent.weights.read(parent.stored(name) or name).to(torch.float32)
    if not _finite(tensor):
        raise DataInvalid(
            f"model '{parent.ref}': tensor '{name}' holds NaN or infinity; train that model again"
        )
    return tensor


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; the extremes are NaN if one value is, and need no mask in memory."""
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return math.isfinite(float(low)) and math.isfinite(float(high))


def _same_integers(name: str, parents: Parents) -> torch.Tensor:
    """Whole numbers (buffers such as masks) have no average: they must agree."""
    first = parents.models[0]
    tensor = first.weights.read(first.stored(name) or name)
    for other in parents.models[1:]:
        if not torch.equal(tensor, other.weights.read(other.stored(name) or name)):
            raise ConfigInvalid(
                f"tensor '{name}' holds whole numbers that differ between '{first.ref}' and '{other.ref}'"
            )
    return tensor


def _first_entry(parents: Parents, name: str) -> Entry:
    first = parents.models[0]
    return first.weights.entries[first.stored(name) or name]


class Moves:
    """How far each model and the merge are from the base: the norms of their differences, summed in fp64."""

    def __init__(self, parents: Parents) -> None:
        self._refs = [model.ref for model in parents.models]
        self._squares = [0.0] * (len(parents.models) + 1)
        self._base = 0.0

    def add(self, index: int, tensor: torch.Tensor, base: torch.Tensor | None) -> None:
        """Add one tensor of model `index`; the merge's index is one past the last model."""
        if base is not None:
            self._squares[index] += float((tensor - base).square_().sum())
            if index == len(self._refs):
                self._base += float(base.square().sum())

    def relative(self) -> dict[str, float]:
        """Norm of the difference over the norm of the base, as metrics; empty without a base."""
        if self._base == 0.0:
            return {}
        names = [*(f"moved.parent_{number}" for number in range(1, len(self._refs) + 1)), "moved.merged"]
        return {name: math.sqrt(s / self._base) for name, s in zip(names, self._squares, strict=True)}


def _copy_companions(parents: Parents, out: Path) -> None:
    first = parents.models[0]
    for path in sorted(first.path.iterdir()):
        wanted = any(path.match(pattern) for pattern in COPIED)
        if path.is_file() and wanted and not any(path.match(pattern) for pattern in NOT_COPIED):
            shutil.copyfile(path, out / path.name)
    if first.config.tie_word_embeddings and not parents.tied:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        config["tie_word_embeddings"] = False  # an untied parent gave the merge an output head of its own
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _result(
    parents: Parents, out: Path, entries: dict[str, Entry], moves: dict[str, float], how: str
) -> Result:
    meta = {
        **model_meta(out),
        "dtype": "+".join(sorted({entry.dtype for entry in entries.values()})),
        "arithmetic": "F32",
        "merged": [model.ref for model in parents.models],
    }
    figure = f"{how} of {', '.join(model.ref for model in parents.models)}"
    if moves:
        figure += f", {moves['moved.merged']:.1%} from the base"
    return Result(figure=figure, metrics=moves, meta={"model": meta})
