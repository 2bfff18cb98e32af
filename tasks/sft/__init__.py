"""Supervised fine-tuning: teach a model to answer from conversations."""

from __future__ import annotations

import tasks.training  # noqa: F401 - settles the accelerator before transformers is imported
from tasks.sft.methods import adapter, completion
from tasks.stage import Method

METHODS: dict[str, Method] = {"completion": completion.METHOD, "adapter": adapter.METHOD}
"""The methods by name; the first is the default."""
