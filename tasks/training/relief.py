"""What a training changes after it ran out of memory: only what leaves its result as it was but for rounding.

The order is that of `tasks.training.preflight.refusal`. What would change the result (a lower precision,
shorter samples) is for the recipe's author, and more processes are for the operator.
"""

from __future__ import annotations

from typing import Any

from tasks.training.options import TrainOptions


def next_relief(options: TrainOptions, *, batch_matters: bool) -> dict[str, Any] | None:
    """The options to change next, or None where nothing harmless is left.

    Args:
        options: As they were when the memory ran out.
        batch_matters: The loss depends on how samples fall into micro-batches (KTO), so these must stay.
    """
    if options.batch_size % 2 == 0 and not batch_matters:
        return {"batch_size": options.batch_size // 2, "accumulation": options.accumulation * 2}
    if not options.activation_checkpointing:
        return {"activation_checkpointing": True}
    return None
