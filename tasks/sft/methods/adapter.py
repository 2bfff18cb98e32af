"""Completion-only fine-tuning that also keeps the adapter by itself, bound to its base.

The training is `completion`'s with `trainable: lora` or another adapter; the outputs are the adapter, the
whole model with the adapter merged, which every other step can read, and the log. As a release's candidate it
is the adapter that becomes the version: some megabytes, where the whole model is gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PeftModel
from pydantic import Field, field_validator

from tasks.sft.methods import completion
from tasks.stage import Estimate, Method, Result, StepContext, one
from tasks.training.models import safetensors_header
from tasks.training.options import ADAPTERS, Trainable
from tasks.training.trainable.adapter_files import save_adapter


class AdapterOptions(completion.CompletionOptions):
    """Options of fine-tuning an adapter that is kept."""

    lr: float = Field(
        2e-4,
        gt=0,
        description="Peak learning rate: ten times that of training all weights.",
        json_schema_extra={"unit": "per step", "source": "arXiv 2106.09685; arXiv 2305.14314"},
    )
    trainable: Trainable = Field(
        "lora",
        description="The adapter that is trained and kept.",
        json_schema_extra={"source": "arXiv 2106.09685"},
    )

    @field_validator("trainable", mode="after")
    @classmethod
    def _an_adapter_that_can_be_kept(cls, value: str) -> str:
        if value == "pissa":
            raise ValueError(
                "pissa takes its start out of the weights beside it, so its adapter fits no model that is "
                "kept; use lora, or method: completion, which merges it"
            )
        if value not in ADAPTERS:
            usable = ", ".join(name for name in ADAPTERS if name != "pissa")
            raise ValueError(f"{value} makes no adapter to keep; use one of {usable}, or method: completion")
        return value


def run(context: StepContext, options: AdapterOptions) -> Result:
    """Fine-tunes an adapter, keeps it, and merges it; raises what `completion.tune` does."""
    source = one(context, "model")
    out = context.output("adapter")

    def keep(adapted: PeftModel) -> None:
        save_adapter(adapted, source.path, source.digest, options.trainable, out)

    done = completion.tune(context, options, keep)
    header = safetensors_header(out / "adapter_model.safetensors")
    size = (out / "adapter_model.safetensors").stat().st_size
    facts = {
        **done.meta["model"],
        "base": source.digest,
        "trainable": options.trainable,
        "adapter_tensors": len([name for name in header if name != "__metadata__"]),
        "adapter_bytes": size,
    }
    return Result(
        figure=f"{done.figure}, adapter of {size:,} bytes",
        metrics=done.metrics,
        meta={**done.meta, "adapter": facts},
    )


def estimate(options: AdapterOptions, inputs: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """What the training will need; the adapter's facts are those of the model that it makes."""
    found = completion.estimate(options, inputs)
    whole = found.meta.get("model", {})
    return Estimate(
        tokens=found.tokens,
        optimiser_steps=found.optimiser_steps,
        memory_bytes=found.memory_bytes,
        disk_bytes=found.disk_bytes,
        meta={**found.meta, "adapter": dict(whole)},
    )


METHOD = Method(
    summary="Cross-entropy on the answers; the adapter is kept by itself, bound to its base.",
    options=AdapterOptions,
    inputs=completion.METHOD.inputs,
    outputs={"adapter": "adapter", "model": "model", "log": "training_log"},
    run=run,
    estimate=estimate,
    paper="arXiv 2007.07779",
)
