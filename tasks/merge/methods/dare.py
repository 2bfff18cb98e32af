"""DARE: drop a random part of each task vector, rescale the rest, and add them up.

Yu et al. 2023, "Language models are Super Mario" (arXiv:2311.03099), merged by task arithmetic.
Differs in that the random numbers come from a counter-based generator keyed by the seed, the tensor's name
and the model's place, so a merge is the same on every machine and whatever the order of the tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy
import torch
from pydantic import Field

from tasks.merge.options import OUTPUTS, PORTS, MergeOptions, checked_weights, estimate
from tasks.merge.parents import open_parents
from tasks.merge.stream import merge
from tasks.stage import Method, Result, StepContext

CHUNK = 1 << 22
"""Random numbers drawn at a time: 16 MiB, however large the tensor."""


class DareOptions(MergeOptions):
    """Options of DARE."""

    weights: list[float] | None = Field(
        default=None,
        description="one weight per task vector; 1 each where not given",
        json_schema_extra={"source": "Yu et al. 2023: the vectors are summed"},
    )
    density: float = Field(
        default=0.5,
        gt=0.0,
        le=1.0,
        description="share of each task vector's values that is kept; kept ones are divided by it",
        json_schema_extra={"unit": "share", "source": "cautious; the paper keeps 0.1 of large models"},
    )
    scale: float = Field(
        default=0.4,
        ge=-100.0,
        le=100.0,
        description="factor on the sum of the task vectors",
        json_schema_extra={"source": "as task_arithmetic"},
    )


def drop(delta: torch.Tensor, density: float, seed: int, name: str, place: int) -> torch.Tensor:
    """Keep each value with probability `density` and divide it by `density`, in place.

    Args:
        delta: A contiguous fp32 task vector.
        density: Probability of keeping a value.
        seed: The step's seed.
        name: The tensor's name.
        place: The model's place among the models.
    """
    if density == 1.0:
        return delta
    key = hashlib.sha256(f"{seed}\0{place}\0{name}".encode()).digest()[:16]
    generator = numpy.random.Generator(numpy.random.Philox(key=int.from_bytes(key, "little")))
    flat = delta.view(-1)
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        draws = torch.from_numpy(generator.random(part.numel(), dtype=numpy.float32))
        part.masked_fill_(draws >= density, 0.0)
    return delta.div_(density)


def dare(
    name: str,
    tensors: Iterator[torch.Tensor],
    base: torch.Tensor,
    weights: Sequence[float],
    density: float,
    scale: float,
    seed: int,
) -> torch.Tensor:
    """Base + scale * sum of weight * dropped and rescaled difference; one parent is held at a time."""
    result = base.clone()
    for place, (weight, tensor) in enumerate(zip(weights, tensors, strict=True)):
        result.add_(drop(tensor.sub_(base), density, seed, name, place), alpha=scale * weight)
    return result


def run(context: StepContext, options: DareOptions) -> Result:
    """Merge the input models' task vectors by DARE into output `model`; random by `context.seed`."""
    parents = open_parents(context, needs_base=True)
    weights = checked_weights(options.weights, len(parents.models), 1.0)

    def combine(name: str, tensors: Iterator[torch.Tensor], base: torch.Tensor | None) -> torch.Tensor:
        assert base is not None
        return dare(name, tensors, base, weights, options.density, options.scale, context.seed)

    return merge(context, options, parents, combine, f"dare, density {options.density:g},")


METHOD = Method(
    summary="Randomly thinned and rescaled task vectors added to the base.",
    options=DareOptions,
    inputs=PORTS,
    outputs=OUTPUTS,
    run=run,
    estimate=estimate,
    paper="Yu et al. 2023, Language models are Super Mario, arXiv:2311.03099",
)
