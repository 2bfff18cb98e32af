"""Intruder dimensions: large singular vectors of the new weights that are like none of the old.

Shuttleworth et al. 2024, "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (arXiv:2410.21228): a left
singular vector among the first k of a tuned matrix is an intruder where its largest absolute cosine with any
left singular vector of the matrix before tuning is below a threshold. Low-rank adapters make them, full
fine-tuning to the same score makes few; they go with forgetting and with adapting worse the next time.

Every model is compared with the origin, which it was made from. Weights are read matrix by matrix, no model
is built. Embeddings and output heads are left out as in the paper, which looks at the blocks' matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from pydantic import Field
from safetensors import safe_open

from tasks.evaluate.measure import Array, Columns, Figure, ratio
from tasks.evaluate.probes.models import Probing, models_of, once
from tasks.evaluate.probes.report import Found, write_probe
from tasks.recipe.failures import ConfigInvalid, Preempted
from tasks.stage import Estimate, Input, Method, Options, Port, Result, StepContext, one
from tasks.training.models import safetensors_header

VERSION = 1
"""Raised whenever the same model and inputs would give other columns."""

OUTSIDE_BLOCKS = ("embed", "lm_head", "wte", "wpe")
"""Parts of the names of matrices that are tables of tokens or positions, or the output head."""


class IntrudersOptions(Options):
    """Options of the look at the weights."""

    top: int = Field(
        10,
        ge=1,
        description="Singular vectors of each new matrix that are looked at, the largest ones.",
        json_schema_extra={"unit": "vectors", "source": "arXiv:2410.21228, the authors' k"},
    )
    threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="A vector whose largest absolute cosine with the old ones is below it is an intruder.",
        json_schema_extra={"unit": "cosine", "source": "within the range that arXiv:2410.21228 sweeps"},
    )
    largest: int = Field(
        4096,
        ge=2,
        description="Matrices whose smaller side is longer than this are left out, and named in a note.",
        json_schema_extra={"unit": "rows or columns", "source": "bounds the time of a decomposition"},
    )


@dataclass(frozen=True)
class Weights:
    """Where a model's matrices are: name -> file."""

    ref: str
    files: Mapping[str, Path]

    def read(self, name: str) -> torch.Tensor:
        """A matrix in fp32."""
        with safe_open(str(self.files[name]), framework="pt") as stream:
            tensor: torch.Tensor = stream.get_tensor(name)
        return tensor.float()


def matrices(item: Input) -> tuple[Weights, dict[str, tuple[int, int]]]:
    """A model's weights, and the shapes of its blocks' matrices, from the headers of its files alone.

    Raises:
        ConfigInvalid: It has no safetensors file.
    """
    files, shapes = {}, {}
    for file in sorted(item.path.glob("*.safetensors")):
        for name, entry in safetensors_header(file).items():
            shape = entry.get("shape", [])
            if len(shape) == 2 and not any(word in name for word in OUTSIDE_BLOCKS):
                files[name], shapes[name] = file, (int(shape[0]), int(shape[1]))
    if not files:
        raise ConfigInvalid(f"model '{item.ref}' has no matrices in *.safetensors files to look at")
    return Weights(item.ref, files), shapes


def likeness(new_MN: torch.Tensor, old_MN: torch.Tensor, top: int) -> Array:
    """Largest absolute cosine of each of the first `top` left singular vectors with any of the old ones.

    Args:
        new_MN: The matrix after.
        old_MN: The matrix before.
        top: How many vectors; all where the matrix has fewer.

    Returns:
        Shape (min(top, M, N),), 1 where the vector was there before.
    """
    new_MK = torch.linalg.svd(new_MN, full_matrices=False).U[:, :top]
    old_ML = torch.linalg.svd(old_MN, full_matrices=False).U
    found: Array = (new_MK.T @ old_ML).abs().amax(dim=1).double().numpy()
    return found


def most(columns: Columns, weights_RN: Array) -> Array:
    """The most intruders in one matrix."""
    most_R: Array = numpy.where(weights_RN > 0, columns["intruders"], -numpy.inf).max(axis=1)
    return most_R


def count(columns: Columns, weights_RN: Array) -> Array:
    """Intruders in all matrices."""
    found: Array = weights_RN @ columns["intruders"]
    return found


FIGURES = (
    Figure(
        "share",
        "lower",
        "",
        "share of the large singular vectors that are new",
        ratio("intruders", "looked_at"),
    ),
    Figure("intruders", "lower", "vectors", "large singular vectors that are like none before", count),
    Figure("most", "lower", "vectors", "the most of them in one matrix", most),
)


def run(context: StepContext, options: IntrudersOptions) -> Result:
    """Compare every model with the origin, matrix by matrix.

    Raises:
        ConfigInvalid: The model has not the origin's matrices, or all of them are too large.
    """
    models = models_of(context)
    old, shapes = matrices(one(context, "origin"))
    looked_at = {name: shape for name, shape in shapes.items() if min(shape) <= options.largest}
    left_out = sorted(set(shapes) - set(looked_at))
    if not looked_at:
        raise ConfigInvalid(
            f"step '{context.step}': every matrix of '{old.ref}' is larger than options.largest "
            f"({options.largest}); raise it"
        )
    judged = dict(models)
    notes = [f"compared with '{old.ref}', threshold {options.threshold:g}, the {options.top} largest vectors"]
    for role, item in list(judged.items()):
        fault = _other_shapes(item, old.ref, shapes)
        if fault and role == "model":
            raise ConfigInvalid(
                f"step '{context.step}': {fault}; intruders are counted between a model and the one it was "
                "tuned from"
            )
        if fault:
            notes.append(f"the {role} is not compared: {fault}")
            del judged[role]
    probing = Probing("intruders", VERSION, options)
    columns: dict[str, Columns] = {}
    for place, (role, item) in enumerate(judged.items()):

        def look(item: Input = item, place: int = place) -> Columns:
            new, _ = matrices(item)
            rows = []
            for done, name in enumerate(looked_at):
                if context.stopping():
                    raise Preempted(
                        f"step '{context.step}' was asked to stop while it looked at '{item.ref}'"
                    )
                context.progress((place + done / len(looked_at)) / len(judged), f"{item.ref} {name}")
                near_K = likeness(new.read(name), old.read(name), options.top)
                new_ones = float((near_K < options.threshold).sum())
                rows.append((new_ones, float(len(near_K)), float(near_K.min())))
            table = numpy.array(rows).T
            return dict(zip(("intruders", "looked_at", "least_likeness"), table, strict=True))

        columns[role] = once(context, probing, item, look)
    if left_out:
        notes.append(
            f"{len(left_out)} matrices are larger than {options.largest} and were left out: {left_out[:5]}"
        )
    worst = numpy.argsort(-columns["model"]["intruders"], kind="stable")[:5]
    names = list(looked_at)
    notes += [
        f"{names[at]}: {columns['model']['intruders'][at]:.0f} of {columns['model']['looked_at'][at]:.0f}"
        for at in worst
        if columns["model"]["intruders"][at]
    ]
    found = Found(probing, names, columns, FIGURES, notes)
    return write_probe(context, models, found, None)


def _other_shapes(item: Input, old: str, shapes: Mapping[str, tuple[int, int]]) -> str:
    """In what a model's matrices are not those of the old one, or ""."""
    _, theirs = matrices(item)
    different = sorted(name for name in {*shapes, *theirs} if shapes.get(name) != theirs.get(name))
    if not different:
        return ""
    return f"'{item.ref}' and '{old}' differ in {len(different)} matrices, first {different[0]}"


def estimate(options: IntrudersOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """A few matrices of the largest allowed size."""
    return Estimate(memory_bytes=8 * 4 * options.largest * options.largest)


METHOD = Method(
    summary="Large singular vectors of the new weights that are like none of the old.",
    options=IntrudersOptions,
    inputs={
        "model": Port(("model",), "the model that is judged"),
        "origin": Port(("model",), "the model that it was tuned from"),
        "baseline": Port(("model",), "another model of the same origin", optional=True),
        "champion": Port(
            ("model",), "what is in production, looked at beside the same origin", optional=True
        ),
    },
    outputs={"probe": "probe"},
    figures={"": ("share", "intruders", "most")},
    run=run,
    estimate=estimate,
    paper="Shuttleworth et al. 2024, LoRA vs Full Fine-tuning, arXiv:2410.21228",
)
