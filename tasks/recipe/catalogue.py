"""What stages and methods there are, read from a generated file so that no stage need be imported.

`perennial catalogue` writes catalogue.json from the stages' tables of methods (tasks/runner/catalogue.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.recipe.failures import ConfigInvalid

FORMAT = 1
CATALOGUE = Path(__file__).parent / "catalogue.json"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PortEntry(_Entry):
    """A named input of a method; as `tasks.stage.Port`."""

    kinds: list[str]
    doc: str = ""
    many: bool = False
    optional: bool = False


class OutputEntry(_Entry):
    """A named output of a method."""

    name: str
    kind: str


class MethodEntry(_Entry):
    """One way of doing a stage.

    Attributes:
        summary: One line.
        paper: The source of the method, or "".
        inputs: Its ports by name.
        outputs: In order; the first is what a bare reference to the step means.
        hands_on: Every input is also an output, unchanged, under its own name.
        figures: Port -> what a report computes of each of its sets; "" for figures under the step's name.
        options: The JSON Schema of its options, from the pydantic model.
    """

    summary: str
    paper: str = ""
    inputs: dict[str, PortEntry]
    outputs: list[OutputEntry]
    hands_on: bool = False
    figures: dict[str, list[str]] = {}
    options: dict[str, Any]

    def option_schema(self, option: str) -> dict[str, Any]:
        """The JSON Schema of one option, definitions that it refers to put in; KeyError if unknown."""
        schema = self._whole(self.options["properties"][option])
        if "anyOf" in schema:
            schema["anyOf"] = [self._whole(branch) for branch in schema["anyOf"]]
        return schema

    def _whole(self, schema: dict[str, Any]) -> dict[str, Any]:
        schema = dict(schema)
        if "$ref" in schema:
            schema = self.options["$defs"][schema.pop("$ref").rsplit("/", 1)[-1]] | schema
        return schema

    @property
    def option_names(self) -> list[str]:
        """The options that the method has."""
        return list(self.options.get("properties", {}))


class StageEntry(_Entry):
    """A kind of work and its methods; `default` is taken where a step names none."""

    default: str
    methods: dict[str, MethodEntry]


class Catalogue(_Entry):
    """All stages."""

    format: int = FORMAT
    stages: dict[str, StageEntry]

    @classmethod
    def load(cls, path: Path = CATALOGUE) -> Catalogue:
        """Read the generated catalogue.

        Raises:
            ConfigInvalid: It is missing or of another format.
        """
        remedy = "write it with `perennial catalogue`"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigInvalid(f"there is no catalogue of methods at {path}; {remedy}") from error
        except ValueError as error:
            raise ConfigInvalid(f"{path} is not JSON ({error}); {remedy}") from error
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ConfigInvalid(f"{path} is not a catalogue of format {FORMAT}; {remedy}")
        return cls.model_validate(raw)

    def default_method(self, stage: str) -> str:
        """The method of a stage where a step names none; KeyError if the stage is unknown."""
        return self.stages[stage].default

    def method(self, stage: str, method: str | None) -> MethodEntry:
        """A method, or the stage's default; KeyError if there is none of that name."""
        entry = self.stages[stage]
        return entry.methods[method or entry.default]
