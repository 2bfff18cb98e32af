"""`perennial outcome`: how an attempt of a step ended, from what it left in the store.

A pod may vanish after its step was committed, or end well without having committed anything; so whoever
started it asks here, and believes this before what it saw itself.
"""

from __future__ import annotations

import json
from typing import Any

from tasks.artefacts import Store
from tasks.recipe.failures import Failure
from tasks.recipe.plan import Plan
from tasks.runner.records import read_record, run_key
from tasks.runner.relief import failure_key, last_failure
from tasks.runner.step import find_step, look

KILLED = (
    "the container was killed because it used more memory than it may (its limit is set by the step's "
    "`resources`)"
)


def outcome(plan: Plan, name: str, store: Store, *, attempt: str, killed_for_memory: bool) -> dict[str, Any]:
    """How an attempt ended.

    Args:
        plan: The plan of the run.
        name: The step's.
        store: Where the record is, or the failure.
        attempt: What the attempt had as PERENNIAL_ATTEMPT; the failure of another one does not count.
        killed_for_memory: It was seen to be killed for memory. A process that is killed cannot write that
            down, so it is written here: the next attempt then spares memory.

    Returns:
        `state`: done, failed or none (it left nothing). With failed: `failure`, `message` and `tail`.

    Raises:
        ConfigInvalid: The plan has no such step.
    """
    step = find_step(plan, name)
    record = read_record(store, run_key(plan.run, name))
    if record is not None:
        return {"state": "done", "figure": record.figure}
    words = last_failure(store, plan.run, name)
    if words is not None and words.get("attempt") == attempt:
        return {"state": "failed", **{key: words[key] for key in ("failure", "message", "tail")}}
    if not killed_for_memory:
        return {"state": "none"}
    lookup, _, _ = look(plan, step, store)
    words = {
        "step": name,
        "failure": Failure.OUT_OF_MEMORY.name,
        "message": KILLED,
        "tail": [],
        "attempt": attempt,
        "fingerprint": lookup.fingerprint,
    }
    store.write(failure_key(plan.run, name), json.dumps(words, indent=1).encode())
    return {"state": "failed", "failure": words["failure"], "message": KILLED, "tail": []}
