"""Merge adapters into the model that all of them were trained beside.

Each adapter is bound to its base by digest and is refused on another
(tasks/training/trainable/adapter_files.py). Several adapters of the LoRA family add up: task vectors in the
adapters' own space (LoraHub, Huang et al. 2023, arXiv 2307.13269, finds the weights by search; here the
recipe gives them). Whatever is not a sum is merged alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tasks.merge.options import OUTPUTS, checked_weights
from tasks.stage import Estimate, Method, Options, Port, Result, StepContext, one
from tasks.training.models import model_meta, save_model
from tasks.training.trainable.adapter_files import combine


class AdaptersOptions(Options):
    """Options of merging adapters."""

    weights: list[float] | None = Field(
        default=None,
        description="one weight per adapter, in the order of inputs.adapters; 1 each where not given",
        json_schema_extra={"source": "arXiv 2307.13269"},
    )


def run(context: StepContext, options: AdaptersOptions) -> Result:
    """Merge the adapters into output `model`.

    Raises:
        ConfigInvalid: An adapter is bound to another base, the weights do not fit, or they do not add up.
        DataInvalid: An adapter cannot be read.
        Infrastructure: The merged model computes something else than the base with its adapters.
    """
    base, adapters = one(context, "base"), context.inputs["adapters"]
    weights = checked_weights(options.weights, len(adapters), 1.0)
    model, tokenizer = combine(base.path, base.digest, [adapter.path for adapter in adapters], weights)
    save_model(model, tokenizer, context.output("model"))
    parts = ", ".join(
        f"{adapter.ref} x {weight:g}" for adapter, weight in zip(adapters, weights, strict=True)
    )
    meta = {**model_meta(context.output("model")), "base": base.digest}
    return Result(figure=f"{parts} merged into {base.ref}", meta={"model": meta})


def estimate(options: AdaptersOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """The whole model once in fp32 with its adapters, and once more while it is read back."""
    base = next(iter(metas.get("base", [])), {})
    whole = 4 * int(base.get("parameters", 0))
    return Estimate(memory_bytes=2 * whole, disk_bytes=whole, meta={"model": dict(base)})


METHOD = Method(
    summary="Adapters merged into the model they were trained beside, each times its weight.",
    options=AdaptersOptions,
    inputs={
        "adapters": Port(("adapter",), "the adapters, all trained beside the base", many=True),
        "base": Port(("model",), "the model that they are bound to"),
    },
    outputs=OUTPUTS,
    run=run,
    estimate=estimate,
    paper="Huang et al. 2023, LoraHub, arXiv:2307.13269",
)
