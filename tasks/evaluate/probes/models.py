"""The models of a probe by role: each distinct one is loaded once and dropped before the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tasks.evaluate.items import read_columns, write_columns
from tasks.evaluate.manifest import VERSION, arithmetic, digest
from tasks.evaluate.measure import Columns
from tasks.evaluate.report import ROLES
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import Preempted
from tasks.stage import Estimate, Input, Options, StepContext

Progress = Callable[[float], None]
"""Takes the share that is done; raises Preempted where the step is to stop."""

BATCH_BYTES = 2 * 2**28
"""Room for one batch's logits and what becomes of them."""

NOT_SCORED_BY = {"batch_size", "resamples", "confidence"}
"""Options of probes that a model's columns do not depend on."""


def models_of(context: StepContext) -> dict[str, Input]:
    """The models that are there, by role."""
    return {role: context.inputs[role][0] for role in ROLES if context.inputs.get(role)}


@dataclass(frozen=True)
class Probing:
    """A probe and what its columns depend on beside the model.

    Attributes:
        name: The probe's.
        version: Raised whenever the same model and inputs would give other columns.
        options: Its options.
        trains: It trains copies of the model, which gives other bits on another sort of device.
    """

    name: str
    version: int
    options: Options
    trains: bool = False

    def manifest(self, context: StepContext) -> dict[str, Any]:
        """Everything that a model's columns depend on; equal manifests make kept columns fit to be used."""
        given = {port: [item.digest for item in items] for port, items in context.inputs.items()}
        return {
            "scoring": VERSION,
            "probe": self.name,
            "version": self.version,
            "options": self.options.model_dump(exclude=NOT_SCORED_BY),
            "inputs": {port: digests for port, digests in given.items() if port not in ROLES},
            "seed": context.seed,
            **arithmetic(),
            **({"trained_on": "CUDA" if torch.cuda.is_available() else "CPU"} if self.trains else {}),
        }


def once(context: StepContext, probing: Probing, item: Input, work: Callable[[], Columns]) -> Columns:
    """A model's columns: those that were kept in the store, else what `work` gives, which is then kept."""
    key = f"{item.digest}/{digest(probing.manifest(context))}"
    before = context.recall(key)
    if before is not None:
        context.note(f"{item.ref}: probed before on the same manifest, and what was found is used again")
        return read_columns(before)[0]
    columns = work()
    path = context.work / "columns.parquet"
    write_columns(path, columns, {})
    context.remember(key, path)
    path.unlink()
    return columns


def per_model(
    context: StepContext,
    models: Mapping[str, Input],
    max_length: int,
    probing: Probing,
    work: Callable[[Subject, Progress], Columns],
) -> dict[str, Columns]:
    """The columns of the model of each role; equal models are worked on once, and known ones not at all.

    Args:
        context: The step's context.
        models: The models by role.
        max_length: Longest sequence in tokens.
        probing: What the columns depend on.
        work: From a loaded model, its columns.

    Raises:
        Preempted: The step was asked to stop.
    """
    distinct = {item.digest: item for item in models.values()}
    results: dict[str, Columns] = {}
    for place, item in enumerate(distinct.values()):

        def report(done: float, place: int = place, ref: str = item.ref) -> None:
            if context.stopping():
                raise Preempted(f"step '{context.step}' was asked to stop while it probed '{ref}'")
            context.progress(0.95 * (place + done) / len(distinct), f"probing {ref}")

        def probe(item: Input = item, report: Progress = report) -> Columns:
            return work(load_subject(item, max_length), report)

        report(0.0)
        results[item.digest] = once(context, probing, item, probe)
    return {role: results[item.digest] for role, item in models.items()}


def part(progress: Progress, place: int, of: int) -> Progress:
    """Progress of one part of several equal ones."""
    return lambda done: progress((place + done) / of)


def memory(copies: int, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """The largest model in fp32 so many times (weights, gradients, moments, other models), and a batch."""
    models = [meta for role in ROLES for meta in metas.get(role, [])]
    weights = max((4 * int(meta.get("parameters", 0)) for meta in models), default=0)
    return Estimate(memory_bytes=copies * weights + BATCH_BYTES)
