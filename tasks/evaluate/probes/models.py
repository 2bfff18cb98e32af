"""The models of a probe by role: each distinct one is loaded once and dropped before the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tasks.evaluate.report import ROLES
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import Preempted
from tasks.stage import Estimate, Input, StepContext

T = TypeVar("T")
Progress = Callable[[float], None]
"""Takes the share that is done; raises Preempted where the step is to stop."""

BATCH_BYTES = 2 * 2**28
"""Room for one batch's logits and what becomes of them."""


def models_of(context: StepContext) -> dict[str, Input]:
    """The models that are there, by role."""
    return {role: context.inputs[role][0] for role in ROLES if context.inputs.get(role)}


def per_model(
    context: StepContext,
    models: Mapping[str, Input],
    max_length: int,
    work: Callable[[Subject, Progress], T],
) -> dict[str, T]:
    """What `work` gives for the model of each role; equal models are worked on once.

    Args:
        context: The step's context.
        models: The models by role.
        max_length: Longest sequence in tokens.
        work: From a loaded model, its result.

    Raises:
        Preempted: The step was asked to stop.
    """
    distinct = {item.digest: item for item in models.values()}
    results: dict[str, T] = {}
    for place, item in enumerate(distinct.values()):

        def report(done: float, place: int = place, ref: str = item.ref) -> None:
            if context.stopping():
                raise Preempted(f"step '{context.step}' was asked to stop while it probed '{ref}'")
            context.progress(0.95 * (place + done) / len(distinct), f"probing {ref}")

        report(0.0)
        results[item.digest] = work(load_subject(item, max_length), report)
    return {role: results[item.digest] for role, item in models.items()}


def part(progress: Progress, place: int, of: int) -> Progress:
    """Progress of one part of several equal ones."""
    return lambda done: progress((place + done) / of)


def memory(copies: int, metas: Mapping[str, list[Mapping[str, Any]]]) -> Estimate:
    """The largest model in fp32 so many times (weights, gradients, moments, other models), and a batch."""
    models = [meta for role in ROLES for meta in metas.get(role, [])]
    weights = max((4 * int(meta.get("parameters", 0)) for meta in models), default=0)
    return Estimate(memory_bytes=copies * weights + BATCH_BYTES)
