"""Slerp: the way along the great circle between two models' tensors.

Shoemake 1985, "Animating rotation with quaternion curves" (SIGGRAPH 19(3)). Differs in that each tensor is
one flattened vector of any length instead of a unit quaternion: the angle is taken between the
directions, the interpolation is applied to the tensors as they are, so their norms blend as well. Nearly
parallel tensors are averaged, where the formula divides by a sine near zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import Field

from tasks.merge.options import OUTPUTS, PORTS_MEASURED, MergeOptions, estimate
from tasks.merge.parents import open_parents
from tasks.merge.stream import merge
from tasks.recipe.failures import ConfigInvalid
from tasks.stage import Method, Result, StepContext

PARALLEL = 0.9995
"""Cosine from which tensors count as parallel; Shoemake leaves it open, this is the value mergekit uses."""


class SlerpOptions(MergeOptions):
    """Options of spherical interpolation."""

    weight: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="share of the second model: 0 gives the first, 1 the second",
        json_schema_extra={"unit": "share", "source": "the middle of the path"},
    )


def slerp(first: torch.Tensor, second: torch.Tensor, weight: float) -> torch.Tensor:
    """Interpolate two tensors of one shape; overwrites both.

    Args:
        first: fp32 tensor.
        second: fp32 tensor of the same shape.
        weight: Share of the second, 0 to 1.
    """
    u, v = first.reshape(-1), second.reshape(-1)
    norms = float(torch.linalg.vector_norm(u)) * float(torch.linalg.vector_norm(v))
    cosine = float(torch.dot(u, v)) / norms if norms > 0.0 else 1.0
    if abs(cosine) > PARALLEL:
        return first.mul_(1.0 - weight).add_(second, alpha=weight)
    angle = math.acos(cosine)
    share_first = math.sin((1.0 - weight) * angle) / math.sin(angle)
    share_second = math.sin(weight * angle) / math.sin(angle)
    return first.mul_(share_first).add_(second, alpha=share_second)


def run(context: StepContext, options: SlerpOptions) -> Result:
    """Interpolate the two input models into output `model`.

    Raises:
        ConfigInvalid: If there are not exactly two models.
    """
    count = len(context.inputs.get("models", []))
    if count != 2:
        raise ConfigInvalid(
            f"step '{context.step}': slerp is a path between two models, got {count}; "
            "merge more with linear, task_arithmetic, ties or dare"
        )
    parents = open_parents(context, needs_base=False)

    def combine(name: str, tensors: Iterator[torch.Tensor], base: torch.Tensor | None) -> torch.Tensor:
        first, second = tensors
        return slerp(first, second, options.weight)

    return merge(context, options, parents, combine, f"slerp {options.weight:g}")


METHOD = Method(
    summary="Spherical interpolation between two models.",
    options=SlerpOptions,
    inputs=PORTS_MEASURED,
    outputs=OUTPUTS,
    run=run,
    estimate=estimate,
    paper="Shoemake 1985, Animating rotation with quaternion curves, SIGGRAPH 19(3)",
)
