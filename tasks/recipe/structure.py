"""A recipe's shape: pydantic's errors as problems, and what is left of the recipe without the broken parts.

Broken parts are cut out and the rest is looked at again, so that one run tells everything.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from tasks.recipe.gate_sets.options import (
    BudgetGates,
    CompatibilityGates,
    GateSets,
    SafetyGates,
    UpdateGates,
)
from tasks.recipe.loading import Path_
from tasks.recipe.models import Budget, DataSource, Gate, Recipe, Release, Schedule, Step
from tasks.recipe.problems import did_you_mean

Fault = tuple[Path_, str, str]
"""Where, what, and what to do."""

_STAND_INS: Mapping[str, Any] = {"recipe": "unnamed", "model": "unnamed", "steps": {}}
"""What takes the place of a key that a recipe cannot do without."""

_ROUNDS = 5


@dataclass
class Shape:
    """Attributes: what is left of the recipe, the faults, and the names whose parts were cut out."""

    recipe: Recipe | None = None
    faults: list[Fault] = field(default_factory=list)
    broken_steps: frozenset[str] = frozenset()
    broken_data: frozenset[str] = frozenset()


def shape(value: Any) -> Shape:
    """Validate a recipe's data against the models, part by part."""
    found = Shape()
    if not isinstance(value, dict):
        message = f"a recipe is a mapping, not {_what(value)}"
        found.faults.append(((), message, "begin with 'recipe: <name>'; see docs/writing-a-recipe.md"))
        return found
    left = copy.deepcopy(value)
    for _ in range(_ROUNDS):
        try:
            found.recipe = Recipe.model_validate(left)
            break
        except ValidationError as error:
            first_look = not found.faults
            cuts: set[Path_] = set()
            for each in error.errors(include_url=False):
                fault = _fault(each, left)
                # Later looks only find what the cuts left incomplete.
                if first_look:
                    found.faults.append(fault)
                cuts.add(_to_cut(fault[0]))
            for path in sorted(cuts, key=_last_first):
                _cut(left, path)
    found.broken_steps = _lost(value, found.recipe, "steps")
    found.broken_data = _lost(value, found.recipe, "data")
    return found


def _lost(value: dict[str, Any], recipe: Recipe | None, part: str) -> frozenset[str]:
    written = value.get(part)
    names = {str(name) for name in written} if isinstance(written, dict) else set()
    return frozenset(names - set(getattr(recipe, part) if recipe else ()))


def _fault(error: Any, value: Any) -> Fault:
    """One of pydantic's errors in the words of the recipe."""
    path = _path(error["loc"], value)
    kind, context = error["type"], error.get("ctx", {})
    name = str(path[-1]) if path else ""
    if "[key]" in error["loc"]:
        return (
            path,
            f"'{name}' is no name",
            "use lower-case letters, digits, _ and -, first a letter",
        )
    if kind == "extra_forbidden":
        return path, f"unknown key '{name}'", did_you_mean(name, _model(path[:-1]).model_fields)
    if kind == "missing":
        fields = _model(path[:-1]).model_fields
        needed = [field for field, info in fields.items() if info.is_required()]
        return path, "is missing", f"add it; what is needed here: {', '.join(needed)}"
    if kind == "literal_error":
        message = f"{_what(error['input'])} is not {context['expected']}"
        choices = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return path, message, did_you_mean(str(error["input"]), choices)
    if kind == "string_pattern_mismatch":
        remedy = "use lower-case letters, digits, _ and -, first a letter"
        if name == "model":
            remedy = "leave out '/', ':' and spaces"
        return path, f"{_what(error['input'])} is no name", remedy
    if kind in _WANTED:
        return path, f"{_what(error['input'])} is not {_WANTED[kind]}", f"write {_WANTED[kind]} here"
    if kind in ("too_short", "string_too_short"):
        return path, "is empty", "write at least one" if kind == "too_short" else "write something"
    message = str(error["msg"])
    return path, f"{_what(error['input'])}: {message[:1].lower()}{message[1:]}", "correct the value"


_WANTED = {
    "string_type": "text (in quotes where it looks like a number)",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

_MODELS: tuple[tuple[tuple[str, ...], type[BaseModel]], ...] = (
    (("data", "*"), DataSource),
    (("steps", "*"), Step),
    (("schedule",), Schedule),
    (("budget",), Budget),
    (("release", "gates", "*"), Gate),
    (("release", "gate_sets"), GateSets),
    (("release", "gate_sets", "update"), UpdateGates),
    (("release", "gate_sets", "safety"), SafetyGates),
    (("release", "gate_sets", "compatibility"), CompatibilityGates),
    (("release", "gate_sets", "budget"), BudgetGates),
    (("release",), Release),
)


def _model(path: Path_) -> type[BaseModel]:
    """The model of the mapping that stands at a path."""
    for pattern, model in _MODELS:
        if len(path) == len(pattern) and all(
            want in ("*", part) for want, part in zip(pattern, path, strict=True)
        ):
            return model
    return Recipe


def _path(location: tuple[str | int, ...], value: Any) -> Path_:
    """Pydantic's location without the marks it adds for keys and for the branches of a union."""
    if location[:1] == ("steps",) and location[2:3] == ("inputs",):
        location = (*location[:4], *location[5:])
    path: list[str | int] = []
    place = value
    for number, part in enumerate(location):
        if part == "[key]":
            break
        if isinstance(place, dict) and (part in place or number == len(location) - 1):
            place = place.get(part)
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            place = place[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _to_cut(path: Path_) -> Path_:
    """The smallest part that can go: an optional key, or the whole entry around a needed one."""
    for pattern, needed in _NEEDED:
        length = len(pattern)
        if len(path) > length and all(want in ("*", part) for want, part in zip(pattern, path, strict=False)):
            key = path[length]
            if pattern[-1] == "gates":
                return path[: length + 1]
            if key in needed:
                return path[:length]
    depth = next((number for number, part in enumerate(path) if isinstance(part, int)), len(path))
    return path[:depth]


_NEEDED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("data", "*"), ("uri", "kind")),
    (("steps", "*"), ("stage", "method")),
    (("release", "gates"), ()),
    (("release", "gate_sets", "update"), ("new", "old")),
    (("release",), ("candidate", "report")),
)


def _last_first(path: Path_) -> tuple[Any, ...]:
    """Sorts later items of a list before earlier ones, so that cutting one does not move the others."""
    return tuple((0, -part, "") if isinstance(part, int) else (1, 0, part) for part in path)


def _cut(left: dict[str, Any], path: Path_) -> None:
    """Remove one part, if it is still there, or put what stands in for it."""
    if len(path) == 1 and path[0] in _STAND_INS:
        left[str(path[0])] = copy.deepcopy(_STAND_INS[str(path[0])])
        return
    place: Any = left
    for part in path[:-1]:
        place = place.get(part) if isinstance(place, dict) else place[part]
        if not isinstance(place, dict | list):
            return
    if isinstance(place, list):
        del place[int(path[-1])]
    else:
        place.pop(path[-1], None)


def _what(value: Any) -> str:
    """A value as a person names it."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"'{value}'" if isinstance(value, str) else str(value)
