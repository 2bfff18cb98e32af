"""The recipes that become DAGs, and what is wrong with the others."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtimes.table import runtime_of

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.form import form_fields
from tasks.recipe.links import dependencies
from tasks.recipe.models import Gate, Recipe
from tasks.recipe.release_rules import with_gates

OWN_TASKS = (
    "plan",
    "register",
    "smoke_record",
    "approve",
    "approve_second",
    "smoke",
    "promote",
    "smoke_after",
)
"""The tasks of a recipe's DAG that are not its steps."""


@dataclass(frozen=True)
class Found:
    """A recipe that is in order: its file, what it says, its form as `form_fields` gives it, every gate."""

    path: Path
    recipe: Recipe
    fields: list[dict[str, Any]]
    gates: list[Gate] = field(default_factory=list)


@dataclass
class Recipes:
    """What the folder holds.

    Attributes:
        good: In the order of their names.
        problems: File -> everything that is wrong with it, as `perennial check` prints it.
    """

    good: list[Found] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)


def folder() -> Path:
    """PERENNIAL_RECIPES, default the repository's recipes/."""
    return Path(os.environ.get("PERENNIAL_RECIPES") or Path(__file__).resolve().parents[2] / "recipes")


def read(place: Path) -> Recipes:
    """Check every `*.yaml` of a folder.

    Two files that name one recipe are a problem of the second: their DAG and their results would be shared.
    So is a step of a size that this installation has no machines for.
    """
    catalogue = Catalogue.load()
    found = Recipes()
    owners: dict[str, Path] = {}
    for path in sorted(place.glob("*.yaml")):
        checked = check(path, catalogue)
        if checked.problems or checked.recipe is None:
            found.problems[path] = format_problems(checked.problems)
        elif checked.recipe.recipe in owners:
            other = owners[checked.recipe.recipe].name
            found.problems[path] = f"{path}: recipe: '{checked.recipe.recipe}' is the name of {other} already"
        else:
            owners[checked.recipe.recipe] = path
            if unfit := [*_without_a_runtime(checked.recipe), *_taken(checked.recipe)]:
                found.problems[path] = "\n".join(f"{path}: {each}" for each in unfit)
                continue
            release = with_gates(checked.recipe, catalogue)
            gates = release.gates if release else []
            found.good.append(Found(path, checked.recipe, form_fields(checked.recipe, catalogue), gates))
    return found


def needs(recipe: Recipe) -> dict[str, list[str]]:
    """Step -> the steps it reads from, sorted; the recipe's graph."""
    return {name: sorted(reads) for name, reads in dependencies(recipe.steps).items()}


def _without_a_runtime(recipe: Recipe) -> list[str]:
    """The steps, and the smoke test, whose size PERENNIAL_RUNTIME gives no runtime, each with why."""
    sizes = {f"steps.{name}.resources": step.resources for name, step in recipe.steps.items()}
    if recipe.release is not None and recipe.release.smoke is not None:
        sizes["release.smoke"] = "cpu"
    problems = []
    for key, size in sizes.items():
        try:
            runtime_of(size)
        except ConfigInvalid as error:
            problems.append(f"{key}: {error}")
    return problems


def _taken(recipe: Recipe) -> list[str]:
    """The steps with the name of a task that every DAG has or may have."""
    return [
        f"steps.{name}: '{name}' is a task of every DAG; give the step another name"
        for name in recipe.steps
        if name in OWN_TASKS
    ]
