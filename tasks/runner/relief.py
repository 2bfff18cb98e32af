"""After out of memory the next attempt of a step spares memory: with the next harmless change of its options.

The change is kept under the fingerprint that ran out of memory. Whoever looks at the step from then on (a
retry, another run of the same plan, a preview) follows it to the fingerprint with the changed options, so
that a later run finds the result and does not run out of memory again.
"""

from __future__ import annotations

import json
from typing import Any

from tasks.artefacts import Store
from tasks.recipe.failures import Failure
from tasks.recipe.plan import Plan, PlannedStep
from tasks.stage import Method, Options
from tasks.training.options import TrainOptions
from tasks.training.relief import next_relief

BATCH_MATTERS = {("align", "kto")}
"""Methods whose loss depends on the micro-batch."""


def failure_key(run: str, step: str) -> str:
    """Key of the last failure of a run's step."""
    return f"runs/{run}/failures/{step}.json"


def last_failure(store: Store, run: str, step: str) -> dict[str, Any] | None:
    """What the last failed attempt of a run's step said, or None."""
    key = failure_key(run, step)
    if store.stat(key) is None:
        return None
    words: dict[str, Any] = json.loads(store.read(key))
    return words


def relief_of(store: Store, fingerprint: str) -> dict[str, Any] | None:
    """The options that the step of a fingerprint changes since it ran out of memory, or None."""
    key = f"relief/{fingerprint}.json"
    if store.stat(key) is None:
        return None
    options: dict[str, Any] = json.loads(store.read(key))["options"]
    return options


def relieve(
    store: Store, plan: Plan, step: PlannedStep, fingerprint: str, method: Method
) -> dict[str, Any] | None:
    """Where the last attempt ran out of memory with this fingerprint, decide what the next one changes.

    Args:
        store: Where failures and reliefs are kept.
        plan: The plan of the run.
        step: With its options as they were.
        fingerprint: The step's.
        method: The step's.

    Returns:
        The changed options, or None: it did not run out of memory, or nothing harmless is left to change.
    """
    words = last_failure(store, plan.run, step.name)
    if (
        words is None
        or words["failure"] != Failure.OUT_OF_MEMORY.name
        or words.get("fingerprint") != fingerprint
    ):
        return None
    changed = _next(step, method.options.model_validate(step.options))
    if changed is not None:
        kept = {"options": changed, "run": plan.run, "step": step.name}
        store.write(f"relief/{fingerprint}.json", json.dumps(kept, sort_keys=True).encode())
    return changed


def in_words(step: PlannedStep, changed: dict[str, Any]) -> str:
    """The change, for the person who reads the log."""
    each = [f"{name} {json.dumps(step.options[name])} -> {json.dumps(new)}" for name, new in changed.items()]
    return f"after out of memory: {', '.join(each)}; the result stays the same but for rounding"


def _next(step: PlannedStep, options: Options) -> dict[str, Any] | None:
    if isinstance(options, TrainOptions):
        return next_relief(options, batch_matters=(step.stage, step.method) in BATCH_MATTERS)
    batch = getattr(options, "batch_size", 1)
    return {"batch_size": batch // 2} if batch > 1 else None
