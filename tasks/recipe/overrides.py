"""Changes to a recipe for one run: `--set steps.adapted.options.lr=2e-4`, or one YAML text from the form."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.loading import EMPTY, Loaded, Path_, load_text
from tasks.recipe.models import Budget, DataSource, Gate, Recipe, Release, Step
from tasks.recipe.problems import Problem, did_you_mean, dotted, format_problems

FILE = "--set"
"""What stands for the file in problems of overrides; the line is the override's number."""

FIXED = ("recipe", "description", "owner", "tags", "schedule", "form")
"""Keys that change nothing in a run, so that setting them for one run would be silently ignored."""


@dataclass(frozen=True)
class Override:
    """One change: the keys from the top, and the value."""

    path: tuple[str, ...]
    value: Any
    number: int


@dataclass(frozen=True)
class Overridden:
    """A recipe's data with the overrides in it; `at` says which override wrote which key."""

    value: Any
    at: Mapping[Path_, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def parse_overrides_text(yaml_text: str) -> dict[str, Any]:
    """The form's one text, nested or with dotted keys, as dotted keys: `{"steps.adapted.options.lr": 1e-4}`.

    Raises:
        ConfigInvalid: The text is not YAML, or not a mapping.
    """
    loaded = load_text(yaml_text, "overrides")
    if [each.message for each in loaded.problems] == [EMPTY]:
        return {}
    if loaded.problems:
        raise ConfigInvalid(format_problems(loaded.problems))
    if loaded.value is None:
        return {}
    if not isinstance(loaded.value, dict):
        raise ConfigInvalid("overrides: write 'steps.<step>.options.<option>: <value>', one on each line")
    found: dict[str, Any] = {}
    _flatten((), loaded.value, found)
    return found


def overrides_arguments(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as `key=value` arguments, the values as JSON (which is YAML)."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in overrides.items()]


def apply_overrides(loaded: Loaded, overrides: Sequence[str] | Mapping[str, Any]) -> Overridden:
    """Put overrides into a recipe's data; the loaded data stays as it is."""
    value = copy.deepcopy(loaded.value)
    problems: list[Problem] = []
    at: dict[Path_, int] = {}
    for override in _parse(overrides, problems):
        problem = _refuse(override, value)
        if problem is None:
            at[_put(value, override)] = override.number
        else:
            problems.append(problem)
    return Overridden(value, at, problems)


def _flatten(path: tuple[str, ...], value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten((*path, key), inner, found)
    else:
        found[".".join(path)] = value


def _parse(overrides: Sequence[str] | Mapping[str, Any], problems: list[Problem]) -> list[Override]:
    if isinstance(overrides, Mapping):
        overrides = overrides_arguments(overrides)
    parsed: list[Override] = []
    for number, text in enumerate(overrides, 1):
        key, equals, written = text.removeprefix("--set").strip().partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            remedy = "write steps.<step>.options.<option>=<value>"
            problems.append(Problem(FILE, number, 1, "", f"'{text}' sets nothing", remedy))
            continue
        loaded = load_text(written, FILE)
        bad = [] if not written.strip() else loaded.problems
        problems += [
            Problem(FILE, number, len(key) + 1 + each.column, dotted(path), each.message, each.remedy)
            for each in bad
        ]
        if not bad:
            parsed.append(Override(path, loaded.value, number))
    return parsed


def _refuse(override: Override, value: Any) -> Problem | None:
    """The problem of an override whose path leads nowhere, or None."""

    def problem(message: str, remedy: str) -> Problem:
        return Problem(FILE, override.number, 1, dotted(override.path), message, remedy)

    def unknown(what: str, word: str, known: Sequence[str]) -> Problem:
        return problem(f"there is no {what} '{word}'", did_you_mean(word, known))

    top, *rest = override.path
    fields = [name for name in Recipe.model_fields if name not in FIXED]
    if top in FIXED:
        return problem(f"'{top}' changes nothing in a run", "change it in the recipe's file")
    if top not in fields:
        return unknown("key", top, fields)
    if not isinstance(value, dict):
        return problem("the recipe is not a mapping", "correct the recipe first")
    named: dict[str, tuple[str, type[BaseModel]]] = {
        "steps": ("step", Step),
        "data": ("data set", DataSource),
    }
    if top in named and rest:
        what, model = named[top]
        entries = value.get(top)
        entries = entries if isinstance(entries, dict) else {}
        if rest[0] not in entries:
            return unknown(what, rest[0], list(entries))
        return _refuse_below(rest[1:], list(model.model_fields), entries[rest[0]], problem)
    if top == "release" and rest[:1] == ["gates"] and len(rest) > 1:
        gates = _gates(value)
        if rest[1] not in gates:
            return unknown("gate", rest[1], list(gates))
        return _refuse_below(rest[2:], list(Gate.model_fields), gates[rest[1]][1], problem)
    if top == "release" and rest[:1] in (["gate_sets"], ["prices"]):
        place: Any = value.get(top)
        for part in rest[:-1]:  # the names of the keys are looked at with the rest of the recipe
            place = place.get(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            return problem("there is nothing there to change", "correct the recipe first")
        return None
    if top == "release" and rest:
        return _refuse_below(rest, list(Release.model_fields), value.get(top), problem)
    if top == "budget" and rest:
        return _refuse_below(rest, list(Budget.model_fields), value.get(top, {}), problem)
    return problem(f"'{top}' has nothing below it", f"write {top}=<value>") if rest else None


def _refuse_below(
    rest: Sequence[str], fields: Sequence[str], value: Any, problem: Callable[[str, str], Problem]
) -> Problem | None:
    """Check the keys below a step, a data set, the release or a gate."""
    refused: Problem | None = None
    if rest and rest[0] not in fields:
        refused = problem(f"there is no key '{rest[0]}'", did_you_mean(rest[0], fields))
    elif rest and not isinstance(value, dict):
        refused = problem("there is nothing there to change", "correct the recipe first")
    elif (len(rest) > 1 and rest[0] not in ("inputs", "options")) or len(rest) > 2:
        refused = problem(f"'{rest[0]}' has no such part", f"set {rest[0]} as a whole")
    elif len(rest) == 2 and not isinstance(value.get(rest[0], {}), dict):
        refused = problem(f"'{rest[0]}' is not a mapping in the recipe", "correct the recipe first")
    return refused


def _gates(value: dict[str, Any]) -> dict[str, tuple[int, dict[str, Any]]]:
    """The recipe's gates by name, with their position, whatever else is wrong with the recipe."""
    release = value.get("release")
    gates = release.get("gates") if isinstance(release, dict) else None
    return {
        str(gate["gate"]): (position, gate)
        for position, gate in enumerate(gates if isinstance(gates, list) else [])
        if isinstance(gate, dict) and "gate" in gate
    }


def _put(value: dict[str, Any], override: Override) -> Path_:
    """Write one override and give the path that it wrote, gates by their position."""
    path: list[str | int] = list(override.path)
    if override.path[:2] == ("release", "gates") and len(path) > 2:
        path[2] = _gates(value)[override.path[2]][0]
    place: Any = value
    for part in path[:-1]:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    place[path[-1]] = override.value
    return tuple(path)
