"""`perennial evaluate`: any registered version on any suite of any recipe, without training anything.

A suite is an evaluate step of a recipe. What it measures on stays as the recipe has it; in the place of the
recipe's candidate it gets the version. Inputs that would have to be trained first (loss curves, the base that
the recipe makes) are left out, and said so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tasks.artefacts import fetch, open_store
from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import Recipe, Step
from tasks.recipe.problems import did_you_mean
from tasks.recipe.references import parse_reference
from tasks.release.records import TRAINED, Report
from tasks.release.summary import set_table
from tasks.runner.logbook import open_parent
from tasks.runner.planner import freeze, write_plan
from tasks.runner.run import run_plan
from tasks.runner.settings import Settings
from tasks.tracking import registry, runs

MAKERS = (*TRAINED, "merge")
"""Stages that make a model: none of them runs for an evaluation."""

PAGES = ("report.html", "report.json")


@dataclass(frozen=True)
class Derived:
    """A recipe that only evaluates, as JSON, and what had to be left out of it."""

    recipe: dict[str, Any]
    step: str
    left_out: list[str]


def evaluate_version(
    settings: Settings,
    model: str,
    version: str,
    *,
    recipe: str,
    suite: str | None = None,
    against: str | None = None,
    run: str,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate a version and leave the report in the store, in MLflow and under the run.

    Args:
        settings: Where the store and MLflow are.
        model: The registered model.
        version: Its number or alias.
        recipe: The recipe's file, which has the suite.
        suite: Its evaluate step; None for the one of its release.
        against: Another version, to be compared with as the base.
        run: The id of this run.
        overrides: `key=value` changes to the recipe, such as steps.report.options.limit=100.
        console: Where progress is shown.

    Returns:
        `model`, `version`, `run`, `report` (its digest), `sets` as in report.json, `left_out`.

    Raises:
        ConfigInvalid: No such version, recipe or suite, or nothing is left to measure on.
        PerennialError: What a step of it failed with.
    """
    console = console or Console(stderr=True)
    wanted = registry.version(model, version, settings.tracking)
    other = registry.version(model, against, settings.tracking) if against else None
    checked = check(recipe, Catalogue.load(), overrides)
    if checked.recipe is None or checked.problems:
        raise ConfigInvalid(format_problems(checked.problems))
    derived = derive(
        checked.recipe,
        suite,
        f"models:/{model}/{wanted.version}",
        f"models:/{model}/{other.version}" if other else None,
    )
    for words in derived.left_out:
        console.print(f"left out: {words}", highlight=False, markup=False)
    plan = freeze(json.dumps(derived.recipe, indent=1) + "\n", settings, run=run)
    store = open_store(settings.store)
    uri = write_plan(plan, store)
    records = {record.step: record for record in run_plan(plan, uri, store, settings, console)}
    digest = next(made.digest for made in records[derived.step].outputs.values() if made.kind == "report")
    folder = fetch(store, digest, settings.home / "cache" / "artefacts")
    for name in PAGES:
        if (folder / name).is_file():
            store.write(f"runs/{run}/{name}", (folder / name).read_bytes())
    runs.end(open_parent(plan, uri), "FINISHED")
    content = json.loads((folder / "report.json").read_bytes())
    return {
        "model": model,
        "version": wanted.version,
        "run": run,
        "report": digest,
        "sets": content["sets"],
        "left_out": derived.left_out,
    }


def table(found: dict[str, Any]) -> str:
    """The figures of an evaluation as a Markdown table."""
    return "\n".join(set_table(Report.model_validate({"sets": found["sets"]})))


def derive(recipe: Recipe, suite: str | None, model: str, against: str | None = None) -> Derived:
    """The part of a recipe that evaluates, about another model.

    Args:
        recipe: As checked.
        suite: The evaluate step; None for the one of the release.
        model: URI of the model to evaluate.
        against: URI of the model to compare it with as the base; None for the recipe's own base, where that
            is not one which it trains.

    Raises:
        ConfigInvalid: There is no such suite, or it needs what has to be trained.
    """
    suites = [name for name, step in recipe.steps.items() if step.stage == "evaluate"]
    name = suite or (recipe.release.report.partition(".")[0] if recipe.release else "")
    if name not in suites:
        raise ConfigInvalid(
            f"recipe '{recipe.recipe}' has no suite '{name}' (a step of the stage evaluate); "
            f"{did_you_mean(name, suites) if suites else 'it has none at all'}"
        )
    subject = recipe.steps[name].inputs.get("model")
    if not isinstance(subject, str):
        raise ConfigInvalid(f"step '{name}' of recipe '{recipe.recipe}' evaluates no single model")
    left_out: list[str] = []
    steps: dict[str, Any] = {}
    data: set[str] = set()

    def trained(text: str) -> bool:
        """Whether an input would have to be made by training."""
        return text != subject and any(
            reference.kind == "step"
            and (
                recipe.steps[reference.name].stage in MAKERS
                or any(trained(each) for _, each in _inputs(recipe.steps[reference.name]))
            )
            for reference in parse_reference(text)
        )

    def keep(step: str) -> None:
        """Take a step over with the inputs that need no training, and the steps those come from."""
        written = recipe.steps[step].model_dump(mode="json", exclude_unset=True)
        inputs: dict[str, Any] = {}
        for port, given in recipe.steps[step].inputs.items():
            texts = [given] if isinstance(given, str) else given
            kept = []
            for text in texts:
                if trained(text):
                    left_out.append(f"{step}.{port}: {text} (made by training)")
                    continue
                kept.append(model if text == subject else text)
                for reference in parse_reference(kept[-1]):
                    if reference.kind == "data":
                        data.add(reference.name)
                    if reference.kind == "step" and reference.name not in steps:
                        keep(reference.name)
            if kept:
                inputs[port] = kept[0] if isinstance(given, str) else kept
        if step == name and against is not None:
            inputs["baseline"] = against
        steps[step] = written | {"inputs": inputs}

    keep(name)
    if against is not None:
        left_out = [words for words in left_out if not words.startswith(f"{name}.baseline:")]
    sources = recipe.model_dump(mode="json", exclude_unset=True).get("data", {})
    return Derived(
        {
            "recipe": f"evaluate-{recipe.recipe}",
            "model": recipe.model,
            "description": f"Suite {name} of recipe {recipe.recipe} on {model}.",
            "seed": recipe.seed,
            "data": {each: source for each, source in sources.items() if each in data},
            "steps": steps,
        },
        name,
        left_out,
    )


def recipe_path(named: str) -> str:
    """A recipe's file from its path or, as Airflow's form gives it, its name."""
    place = Path(named)
    if place.suffix in (".yaml", ".yml") or place.exists():
        return named
    return str(Path("recipes") / f"{named}.yaml")


def _inputs(step: Step) -> list[tuple[str, str]]:
    return [
        (port, text)
        for port, given in step.inputs.items()
        for text in ([given] if isinstance(given, str) else given)
    ]
