"""What all merge methods share in their description: ports, the options of writing, weights, the estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from tasks.recipe.failures import ConfigInvalid
from tasks.stage import Estimate, Options, Port

MODELS = Port(("model",), "the models to merge, two or more of one architecture and tokenizer", many=True)
BASE = Port(("model",), "the model that all of them were tuned from")
PORTS: dict[str, Port] = {"models": MODELS, "base": BASE}
PORTS_MEASURED: dict[str, Port] = {
    "models": MODELS,
    "base": Port(("model",), "only measured against: how far the merge moved from it", optional=True),
}
OUTPUTS: dict[str, str] = {"model": "model"}


class MergeOptions(Options):
    """The options of writing the result, the same for every method."""

    shard_bytes: int = Field(
        default=5_000_000_000,
        ge=1,
        description="largest size of one weights file; a tensor is never split",
        json_schema_extra={"unit": "bytes", "source": "the file size that the model hub recommends"},
    )
    probe: bool = Field(
        default=True,
        description="load the result once in fp32 and run it; off only for models larger than memory",
        json_schema_extra={"source": "a merge that does not load is found here, not by its user"},
    )


def checked_weights(weights: Sequence[float] | None, models: int, default: float) -> list[float]:
    """One weight per model.

    Args:
        weights: What the recipe says, or None for `default` each.
        models: How many models are merged.
        default: The weight of each where the recipe names none.

    Raises:
        ConfigInvalid: If there are more or fewer weights than models.
    """
    if weights is None:
        return [default] * models
    if len(weights) != models:
        raise ConfigInvalid(
            f"options.weights has {len(weights)} entries for {models} models: give one weight per model, "
            "in the order of inputs.models"
        )
    return list(weights)


def estimate(options: MergeOptions, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """Disk of the result and memory of the merge.

    Streaming needs a few copies of the largest tensor (at most the embedding, in fp32); the probe needs the
    whole model once in fp32.
    """
    models = metas.get("models", [])
    first = models[0] if models else {}
    embedding = 4 * int(first.get("vocab_size", 0)) * int(first.get("hidden", 0))
    copies = len(models) + len(metas.get("base", [])) + 3
    whole = 4 * int(first.get("parameters", 0)) if options.probe else 0
    return Estimate(
        memory_bytes=max(copies * embedding, whole),
        disk_bytes=int(first.get("bytes", 0)),
        meta={"model": dict(first)},
    )
