"""Merge models of one architecture into one, tensor by tensor, without training."""

from __future__ import annotations

import tasks.training  # noqa: F401 - settles the accelerator before transformers is imported
from tasks.merge.methods import adapters, dare, delta_come, linear, slerp, task_arithmetic, ties
from tasks.stage import Method

METHODS: dict[str, Method] = {
    "linear": linear.METHOD,
    "slerp": slerp.METHOD,
    "task_arithmetic": task_arithmetic.METHOD,
    "ties": ties.METHOD,
    "dare": dare.METHOD,
    "adapters": adapters.METHOD,
    "delta_come": delta_come.METHOD,
}
"""The methods by name; the first is the default."""
