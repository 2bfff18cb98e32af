"""Linear: the weighted average of the models' weights.

Wortsman et al. 2022, "Model soups" (arXiv:2203.05482), the uniform soup; of a base and its tuned
model it is LM-Cocktail (Xiao et al. 2023, arXiv:2311.13534) with given weights. Differs in that the weights
are normalised to sum to one here, so that the merge keeps the models' scale whatever the recipe says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field

from tasks.merge.options import OUTPUTS, PORTS_MEASURED, MergeOptions, checked_weights, estimate
from tasks.merge.parents import open_parents
from tasks.merge.stream import merge
from tasks.recipe.failures import ConfigInvalid
from tasks.stage import Method, Result, StepContext


class LinearOptions(MergeOptions):
    """Options of the weighted average."""

    weights: list[float] | None = Field(
        default=None,
        description="one weight per model, normalised to sum to one; equal where not given",
        json_schema_extra={"source": "Wortsman et al. 2022, uniform soup"},
    )


def linear(tensors: Iterator[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The sum of share times tensor, accumulated in place so that one parent is held at a time."""
    total = next(tensors).mul_(shares[0])
    for share, tensor in zip(shares[1:], tensors, strict=True):
        total.add_(tensor, alpha=share)
    return total


def run(context: StepContext, options: LinearOptions) -> Result:
    """Average the input models into output `model`.

    Raises:
        ConfigInvalid: If the weights do not fit the models, or sum to zero or less.
    """
    parents = open_parents(context, needs_base=False)
    weights = checked_weights(options.weights, len(parents.models), 1.0)
    if sum(weights) <= 0:
        raise ConfigInvalid(
            f"step '{context.step}': options.weights sums to {sum(weights):g}; it must be positive"
        )
    shares = [weight / sum(weights) for weight in weights]

    def combine(name: str, tensors: Iterator[torch.Tensor], base: torch.Tensor | None) -> torch.Tensor:
        return linear(tensors, shares)

    how = "average " + "/".join(f"{share:.2g}" for share in shares)
    return merge(context, options, parents, combine, how)


METHOD = Method(
    summary="Weighted average of the weights (model soup).",
    options=LinearOptions,
    inputs=PORTS_MEASURED,
    outputs=OUTPUTS,
    run=run,
    estimate=estimate,
    paper="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
)
