"""Collects the stages' tables of methods into the file that the recipe language reads."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.recipe.catalogue import FORMAT, Catalogue
from tasks.recipe.failures import PerennialError
from tasks.stage import KINDS, Method

STAGES = ("validate", "prepare", "pretrain", "sft", "align", "distill", "merge", "evaluate")
"""The stages that a recipe can name; a new one is a folder of tasks/ and a word here."""


def build() -> dict[str, Any]:
    """Import every stage and describe its methods.

    Raises:
        PerennialError: A stage has no table of methods, or a table names a kind that there is not.
    """
    stages = {stage: describe_stage(stage, _methods(stage)) for stage in STAGES}
    return {"format": FORMAT, "stages": stages}


def write(path: Path) -> None:
    """Write the catalogue; the same stages give the same bytes."""
    catalogue = build()
    Catalogue.model_validate(catalogue)
    text = json.dumps(catalogue, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def describe_stage(stage: str, methods: Mapping[str, Method]) -> dict[str, Any]:
    """One stage's entry: its methods, the first being its default."""
    if not methods:
        raise PerennialError(f"tasks/{stage}: METHODS is empty; a stage needs a method")
    return {
        "default": next(iter(methods)),
        "methods": {name: _describe(f"{stage}/{name}", method) for name, method in methods.items()},
    }


def _methods(stage: str) -> Mapping[str, Method]:
    module = importlib.import_module(f"tasks.{stage}")
    methods: Mapping[str, Method] | None = getattr(module, "METHODS", None)
    if methods is None:
        raise PerennialError(f"tasks/{stage}/__init__.py has no METHODS, a dict of name -> Method; add it")
    return methods


def _describe(called: str, method: Method) -> dict[str, Any]:
    kinds = {*method.outputs.values(), *(kind for port in method.inputs.values() for kind in port.kinds)}
    unknown = sorted(kinds - set(KINDS))
    if unknown:
        raise PerennialError(f"{called}: there is no kind '{unknown[0]}'; see KINDS in tasks/stage.py")
    without = sorted(set(method.figures) - {"", *method.inputs})
    if without:
        raise PerennialError(f"{called}: figures of '{without[0]}', which is none of its ports")
    schema = method.options.model_json_schema()
    for option, described in schema.get("properties", {}).items():
        if not described.get("description"):
            raise PerennialError(
                f"{called}: option '{option}' has no description; add Field(description=...)"
            )
    return {
        "summary": method.summary,
        "paper": method.paper,
        "inputs": {
            name: {
                "kinds": list(port.kinds),
                "doc": port.doc,
                "many": port.many,
                "optional": port.optional,
            }
            for name, port in method.inputs.items()
        },
        "outputs": [{"name": name, "kind": kind} for name, kind in method.outputs.items()],
        "hands_on": method.hands_on,
        "figures": {port: list(names) for port, names in method.figures.items()},
        "options": schema,
    }
