"""Alignment: teach a model which of two answers people prefer."""

from __future__ import annotations

import tasks.training  # noqa: F401 - settles the accelerator before transformers is imported
from tasks.align.methods import dpo, reference
from tasks.stage import Method

METHODS: dict[str, Method] = {"dpo": dpo.METHOD, "reference": reference.METHOD}
"""The methods by name; the first is the default."""
