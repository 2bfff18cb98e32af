"""What a probe found, taken into the report: its figures under its step's name, its items, its samples.

A probe is an artefact: probe.json with {"schema": 1, "probe", "manifest", "models", "sets", "changed",
"notes", "samples"} and items/*.parquet.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.evaluate.items import plain_name
from tasks.evaluate.report import ROLES, write_json
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.stage import Input

SCHEMA = 1


@dataclass(frozen=True)
class Probe:
    """A probe's content."""

    path: Path
    content: Mapping[str, Any]

    def entries(self, step: str) -> list[dict[str, Any]]:
        """Its entries of the report, named by the step that made them."""
        return [{**entry, "name": step} for entry in self.content["sets"]]

    def changed(self, step: str) -> list[dict[str, Any]]:
        """The items that changed between the models, under the step's name."""
        return [{**entry, "set": step} for entry in self.content.get("changed", [])]

    @property
    def facts(self) -> dict[str, Any]:
        """What the report tells of it beside figures; samples have text and are for the restricted part."""
        return {"probe": self.content["probe"], "notes": self.content.get("notes", [])}


def read_probe(item: Input, models: Mapping[str, Input]) -> Probe:
    """Read a probe's artefact.

    Raises:
        DataInvalid: If it is no probe, or of another schema.
        ConfigInvalid: If it is about other models than the report: figures of one model must not stand for
            another.
    """
    try:
        content = json.loads((item.path / "probe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataInvalid(f"probe '{item.ref}': probe.json cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not content.get("sets"):
        raise DataInvalid(f"probe '{item.ref}': probe.json has no figures of schema {SCHEMA}")
    for role in ROLES:
        held = content["models"].get(role)
        if held is not None and (role not in models or models[role].digest != held["digest"]):
            there = f"'{models[role].ref}'" if role in models else "none"
            raise ConfigInvalid(
                f"probe '{item.ref}' has '{held['ref']}' as its {role}, the report has {there}; give both "
                f"the same inputs"
            )
    return Probe(item.path, content)


def copy_items(probe: Probe, step: str, out: Path) -> None:
    """Put the probe's items and samples beside the report's."""
    for path in sorted((probe.path / "items").glob("*.parquet")):
        (out / "items").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / "items" / f"{plain_name(step)}.{path.name}")
    if probe.content.get("samples"):
        (out / "restricted").mkdir(parents=True, exist_ok=True)
        write_json(out / "restricted" / f"{plain_name(step)}.json", {"samples": probe.content["samples"]})
