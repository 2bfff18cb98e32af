"""Task arithmetic: the base plus the scaled sum of the models' differences from it.

Ilharco et al. 2022, "Editing models with task arithmetic" (arXiv:2212.04089). Differs in that each task
vector may have a weight of its own (negative ones subtract a skill, as the paper does with one vector), and
that the scale is an option instead of being searched on validation data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field

from tasks.merge.options import OUTPUTS, PORTS, MergeOptions, checked_weights, estimate
from tasks.merge.parents import open_parents
from tasks.merge.stream import merge
from tasks.stage import Method, Result, StepContext


class TaskArithmeticOptions(MergeOptions):
    """Options of task arithmetic."""

    weights: list[float] | None = Field(
        default=None,
        description="one weight per task vector; 1 each where not given, negative subtracts",
        json_schema_extra={"source": "Ilharco et al. 2022: the vectors are summed"},
    )
    scale: float = Field(
        default=0.4,
        ge=-100.0,
        le=100.0,
        description="factor on the sum of the task vectors",
        json_schema_extra={
            "source": "Yadav et al. 2023, the value for task arithmetic without validation data"
        },
    )


def task_arithmetic(
    tensors: Iterator[torch.Tensor], base: torch.Tensor, weights: Sequence[float], scale: float
) -> torch.Tensor:
    """Base + scale * sum of weight * (tensor - base); one parent is held at a time."""
    result = base.clone()
    for weight, tensor in zip(weights, tensors, strict=True):
        result.add_(tensor.sub_(base), alpha=scale * weight)
    return result


def run(context: StepContext, options: TaskArithmeticOptions) -> Result:
    """Add the task vectors of the input models to the base, into output `model`."""
    parents = open_parents(context, needs_base=True)
    weights = checked_weights(options.weights, len(parents.models), 1.0)

    def combine(name: str, tensors: Iterator[torch.Tensor], base: torch.Tensor | None) -> torch.Tensor:
        assert base is not None
        return task_arithmetic(tensors, base, weights, options.scale)

    return merge(context, options, parents, combine, f"task arithmetic, scale {options.scale:g},")


METHOD = Method(
    summary="The base plus the scaled sum of task vectors.",
    options=TaskArithmeticOptions,
    inputs=PORTS,
    outputs=OUTPUTS,
    run=run,
    estimate=estimate,
    paper="Ilharco et al. 2022, Editing models with task arithmetic, arXiv:2212.04089",
)
