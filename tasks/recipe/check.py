"""Checks a recipe whole: every problem at once, each with its line and a remedy, and never a traceback."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from tasks.recipe import graph
from tasks.recipe.catalogue import Catalogue, MethodEntry
from tasks.recipe.cron import cron_error
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.links import Known, Links, dependencies, kind_of, link, method_of
from tasks.recipe.loading import Loaded, Path_, load
from tasks.recipe.models import RESERVED, Budget, DataKind, Recipe, Step
from tasks.recipe.options import option_error, option_remedy, resolved
from tasks.recipe.overrides import FILE, Overridden, apply_overrides
from tasks.recipe.problems import Problem, did_you_mean, dotted, format_problems
from tasks.recipe.references import check_uri, implied_kind
from tasks.recipe.release_rules import release_faults
from tasks.recipe.secrets import mask, secrets_in
from tasks.recipe.structure import Fault, Shape, shape

__all__ = ["Checked", "Problem", "check", "format_problems"]

FEWEST: Mapping[tuple[str, str], int] = {("merge", "models"): 2}
"""The least number of references where one would make no sense: (stage, port)."""

_ASSET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Attributes:
        recipe: The recipe with its overrides, or None where there are problems.
        problems: In the order of the file, those of overrides last.
    """

    recipe: Recipe | None
    problems: list[Problem] = field(default_factory=list)


def check(
    path_or_text: Path | str, catalogue: Catalogue, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Checked:
    """Check a recipe with its overrides.

    Args:
        path_or_text: A file (a `Path`, or text of one line), or the YAML itself (text of several lines).
        catalogue: What stages and methods there are.
        overrides: `steps.adapted.options.lr=2e-4`, or the same as a mapping of dotted keys to values.
    """
    loaded = load(path_or_text)
    if loaded.value is None and loaded.problems:
        return Checked(None, loaded.problems)
    changed = apply_overrides(loaded, overrides)
    shaped = shape(changed.value)
    faults = list(shaped.faults)
    if shaped.recipe is not None:
        faults += recipe_faults(shaped.recipe, shaped, changed.value, catalogue)
    faults += _secret_faults(changed.value)
    problems = [*loaded.problems, *changed.problems]
    problems += [_problem(fault, loaded, changed) for fault in faults]
    shown = {replace(each, message=mask(each.message), remedy=mask(each.remedy)) for each in problems}
    unique = sorted(shown, key=lambda each: (each.file == FILE, each))
    return Checked(None if unique else shaped.recipe, unique)


def recipe_faults(recipe: Recipe, shaped: Shape, raw: Any, catalogue: Catalogue) -> list[Fault]:
    """What is wrong with the meaning of a recipe whose shape is right (or was cut to be right)."""
    faults: list[Fault] = []
    if (
        not recipe.steps
        and not shaped.broken_steps
        and not any(path == ("steps",) for path, *_ in shaped.faults)
    ):
        faults.append((("steps",), "there are no steps", "write at least one: <name>: {stage: <stage>, ...}"))
    faults += _data_faults(recipe)
    for name, step in recipe.steps.items():
        faults += _step_faults(name, step, raw["steps"][name], catalogue)
    links = link(Known(recipe.data, recipe.steps, catalogue, shaped.broken_steps, shaped.broken_data))
    faults += links.faults
    faults += _cycle_faults(recipe)
    faults += _twin_faults(recipe, links, catalogue)
    faults += _schedule_faults(recipe)
    if recipe.budget == Budget() and all(value is None for value in raw["budget"].values()):
        faults.append((("budget",), "limits nothing", "add device_hours or cost, or leave it out"))
    if recipe.release:
        faults += release_faults(recipe, links, catalogue, shaped.broken_steps, raw)
    faults += form_faults(recipe, catalogue, shaped.broken_steps)
    return faults


def _problem(fault: Fault, loaded: Loaded, changed: Overridden) -> Problem:
    """A fault with its place: in the file, or the override that wrote the key."""
    path, message, remedy = fault
    for length in range(len(path), -1, -1):
        if path[:length] in changed.at:
            return Problem(FILE, changed.at[path[:length]], 1, dotted(path), message, remedy)
        if path[:length] in loaded.places:
            line, column = loaded.places[path[:length]]
            return Problem(loaded.file, line, column, dotted(path), message, remedy)
    return Problem(loaded.file, 1, 1, dotted(path), message, remedy)


def _secret_faults(value: Any) -> list[Fault]:
    """Secrets written into the recipe: plans, logs and MLflow would show them to everybody."""
    remedy = "take it out and change it where it is from; steps get theirs from the environment or a role"
    return [(path, f"this looks like {kind}", remedy) for path, kind in secrets_in(value)]


def _data_faults(recipe: Recipe) -> list[Fault]:
    faults: list[Fault] = []
    for name, source in recipe.data.items():
        path: Path_ = ("data", name)
        try:
            check_uri(source.uri)
        except ConfigInvalid as error:
            message, _, remedy = str(error).partition("; ")
            faults.append(((*path, "uri"), message, remedy or "correct it"))
            continue
        implied = implied_kind(source.uri)
        if implied == "model":
            remedy = f"write {source.uri} as the input of the step that reads it"
            faults.append(((*path, "uri"), "a model is no data set", remedy))
        elif implied and source.kind and implied != source.kind:
            message = f"'{source.kind}' does not fit {source.uri}, which has {implied}"
            faults.append(((*path, "kind"), message, "leave 'kind' out"))
        elif kind_of(source) is None:
            *kinds, last = get_args(DataKind)
            remedy = f"add kind: {', '.join(kinds)} or {last}"
            faults.append((path, "the kind of its rows cannot be told from the URI", remedy))
    return faults


def _step_faults(name: str, step: Step, raw: Any, catalogue: Catalogue) -> list[Fault]:
    path: Path_ = ("steps", name)
    faults: list[Fault] = []
    if name in RESERVED:
        faults.append((path, f"'{name}' is a word of references", "give the step another name"))
    stage = catalogue.stages.get(step.stage)
    if stage is None:
        remedy = did_you_mean(step.stage, catalogue.stages)
        return [*faults, ((*path, "stage"), f"there is no stage '{step.stage}'", remedy)]
    method = method_of(step, catalogue)
    if method is None:
        message = f"stage {step.stage} has no method '{step.method}'"
        remedy = did_you_mean(str(step.method), stage.methods)
        return [*faults, ((*path, "method"), message, remedy)]
    called = f"{step.stage}/{step.method or stage.default}"
    faults += _input_faults(path, step, raw, method, called)
    for option, value in step.options.items():
        if option not in method.option_names:
            remedy = did_you_mean(option, method.option_names, f"{called} has no options")
            faults.append(((*path, "options", option), f"{called} has no option '{option}'", remedy))
        elif error := option_error(method, option, value):
            faults.append(((*path, "options", option), error, option_remedy(method, option)))
    given = raw.get("options")
    for option in method.options.get("required", []):
        if not (isinstance(given, dict) and option in given):
            message = f"option '{option}' of {called} is missing"
            faults.append(((*path, "options"), message, option_remedy(method, option)))
    return faults


def _input_faults(path: Path_, step: Step, raw: Any, method: MethodEntry, called: str) -> list[Fault]:
    faults: list[Fault] = []
    for port, given in step.inputs.items():
        place: Path_ = (*path, "inputs", port)
        entry = method.inputs.get(port)
        if entry is None:
            remedy = did_you_mean(port, method.inputs, f"{called} reads nothing")
            faults.append((place, f"{called} has no input '{port}'", remedy))
            continue
        many = [given] if isinstance(given, str) else given
        if isinstance(given, list) and not entry.many:
            remedy = f"write {port}: {given[0]}" if given else f"write {port}: <reference>"
            faults.append((place, "takes one reference, not a list", remedy))
        elif not many:
            faults.append((place, "is an empty list", "name at least one reference, or leave the input out"))
        elif len(many) < FEWEST.get((step.stage, port), 1):
            fewest = FEWEST[(step.stage, port)]
            remedy = f"write {port}: [<step>, <step>]"
            faults.append((place, f"a {step.stage} needs at least {fewest} {port}, got {len(many)}", remedy))
        for number, text in enumerate(many):
            if text in many[:number]:
                faults.append(((*place, number), f"'{text}' is there twice", "name it once"))
    written = raw.get("inputs")
    for port, entry in method.inputs.items():
        if not entry.optional and not (isinstance(written, dict) and port in written):
            message = f"input '{port}' of {called} is missing"
            kinds = " or ".join(entry.kinds)
            remedy = f"add {port}: <reference to {kinds}>" + (f" ({entry.doc})" if entry.doc else "")
            faults.append(((*path, "inputs"), message, remedy))
    return faults


def _cycle_faults(recipe: Recipe) -> list[Fault]:
    return [
        (
            ("steps", cycle[0], "inputs"),
            f"the steps wait for each other: {' -> '.join([*cycle, cycle[0]])} (each reads from the next)",
            "let one of them read something else",
        )
        for cycle in graph.cycles(dependencies(recipe.steps))
    ]


def _twin_faults(recipe: Recipe, links: Links, catalogue: Catalogue) -> list[Fault]:
    """Steps that do the very same work would share one fingerprint, one scratch folder, one checkpoint."""
    faults: list[Fault] = []
    seen: list[tuple[Any, str]] = []
    for name, step in recipe.steps.items():
        method = method_of(step, catalogue)
        if method is None:
            continue
        inputs = {
            port: [[str(each.reference) for each in alternatives] for alternatives in items]
            for port, items in links.inputs[name].items()
        }
        seed = recipe.seed if step.seed is None else step.seed
        options = resolved(method, step.options)
        work = (step.stage, step.method or catalogue.default_method(step.stage), options, seed, inputs)
        other = next((before for known, before in seen if known == work), None)
        if other:
            message = f"does exactly what '{other}' does"
            faults.append((("steps", name), message, f"read '{other}' instead, or give it another seed"))
        seen.append((work, name))
    return faults


def _schedule_faults(recipe: Recipe) -> list[Fault]:
    faults: list[Fault] = []
    schedule = recipe.schedule
    if schedule is None:
        return faults
    if schedule.cron is None and not schedule.on:
        faults.append((("schedule",), "says neither when nor on what", "add cron or on, or leave it out"))
    if schedule.cron is not None and (error := cron_error(schedule.cron)):
        faults.append((("schedule", "cron"), error, 'e.g. "0 3 * * 1" is Mondays at 03:00 UTC'))
    for number, name in enumerate(schedule.on):
        if not _ASSET.match(name):
            remedy = "use letters, digits, _, -, . and /, e.g. corpus/pydocs"
            faults.append((("schedule", "on", number), f"'{name}' is no name of an asset", remedy))
    return faults


def form_faults(recipe: Recipe, catalogue: Catalogue, broken_steps: frozenset[str]) -> list[Fault]:
    """Entries of the trigger form that name nothing."""
    faults: list[Fault] = []
    for number, entry in enumerate(recipe.form):
        path: Path_ = ("form", number)
        name, _, option = entry.partition(".")
        step = recipe.steps.get(name)
        if entry in recipe.form[:number]:
            faults.append((path, f"'{entry}' is there twice", "name it once"))
        elif name in broken_steps:
            continue
        elif step is None:
            names = [*recipe.steps, *broken_steps]
            faults.append((path, f"there is no step '{name}'", did_you_mean(name, names)))
        elif (method := method_of(step, catalogue)) and option not in method.option_names:
            options = [f"{name}.{known}" for known in method.option_names]
            faults.append((path, f"step '{name}' has no option '{option}'", did_you_mean(entry, options)))
    return faults
