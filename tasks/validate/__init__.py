"""Checks datasets before anything is trained on them, and hands them on unchanged."""

from __future__ import annotations

from tasks.stage import Method
from tasks.validate.methods import expectations

METHODS: dict[str, Method] = {"expectations": expectations.METHOD}
"""The methods by name; the first is the default."""
