"""TIES: trim the task vectors, elect a sign per parameter, average what agrees with it.

Yadav et al. 2023, "TIES-Merging: resolving interference when merging models" (arXiv:2306.01708). Differs in
three points: the trim is per tensor, not over the whole model (tensors are streamed); values that tie with
the smallest kept one are kept too, so the result does not depend on a sort's order; and task vectors may have
weights, which count in the election and in the average (equal weights are the paper).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field

from tasks.merge.options import OUTPUTS, PORTS, MergeOptions, checked_weights, estimate
from tasks.merge.parents import open_parents
from tasks.merge.stream import merge
from tasks.recipe.failures import ConfigInvalid
from tasks.stage import Method, Result, StepContext


class TiesOptions(MergeOptions):
    """Options of TIES."""

    weights: list[float] | None = Field(
        default=None,
        description="one positive weight per model; 1 each where not given",
        json_schema_extra={"source": "Yadav et al. 2023: all vectors count the same"},
    )
    density: float = Field(
        default=0.5,
        gt=0.0,
        le=1.0,
        description="share of each task vector's values that is kept, the largest in magnitude",
        json_schema_extra={
            "unit": "share",
            "source": "mergekit issue 26 (denser was better); the paper's is 0.2",
        },
    )
    scale: float = Field(
        default=1.0,
        ge=-100.0,
        le=100.0,
        description="factor on the merged task vector",
        json_schema_extra={"source": "Yadav et al. 2023, the value without validation data"},
    )


def trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Zero, in place, all but the `density` largest values in magnitude (ties with the smallest kept)."""
    size = delta.numel()
    kept = max(1, round(density * size))
    if kept >= size:
        return delta
    magnitude = delta.abs().reshape(-1)
    threshold = torch.kthvalue(magnitude, size - kept + 1).values
    return delta.masked_fill_(magnitude.reshape(delta.shape) < threshold, 0.0)


def ties(
    tensors: Iterator[torch.Tensor],
    base: torch.Tensor,
    weights: Sequence[float],
    density: float,
    scale: float,
) -> torch.Tensor:
    """Base + scale * the mean, per parameter, of the trimmed differences that have the elected sign.

    Args:
        tensors: The models' fp32 tensors; overwritten.
        base: The base's.
        weights: One positive weight per model.
        density: Share of values kept by the trim.
        scale: Factor on the result.
    """
    deltas = [trim(tensor.sub_(base), density) for tensor in tensors]
    elected = torch.zeros_like(base)
    for weight, delta in zip(weights, deltas, strict=True):
        elected.add_(delta, alpha=weight)
    elected.sign_()
    total, mass = torch.zeros_like(base), torch.zeros_like(base)
    for weight, delta in zip(weights, deltas, strict=True):
        agrees = delta.sign().mul_(elected) > 0  # trimmed values have sign zero and never agree
        total.add_(delta.mul_(agrees), alpha=weight)
        mass.add_(agrees, alpha=weight)
    return total.div_(mass.masked_fill_(mass == 0, 1.0)).mul_(scale).add_(base)


def run(context: StepContext, options: TiesOptions) -> Result:
    """Merge the input models' task vectors by TIES into output `model`.

    Raises:
        ConfigInvalid: If a weight is not positive: an election has no negative votes.
    """
    parents = open_parents(context, needs_base=True)
    weights = checked_weights(options.weights, len(parents.models), 1.0)
    if min(weights) <= 0:
        raise ConfigInvalid(f"step '{context.step}': options.weights of ties must be positive, got {weights}")

    def combine(name: str, tensors: Iterator[torch.Tensor], base: torch.Tensor | None) -> torch.Tensor:
        assert base is not None
        return ties(tensors, base, weights, options.density, options.scale)

    return merge(context, options, parents, combine, f"ties, density {options.density:g},")


METHOD = Method(
    summary="Trimmed task vectors, one elected sign per parameter, averaged.",
    options=TiesOptions,
    inputs=PORTS,
    outputs=OUTPUTS,
    run=run,
    estimate=estimate,
    paper="Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
)
