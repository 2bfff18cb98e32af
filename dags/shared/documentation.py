"""The documentation of a recipe's DAG, from the recipe's own text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shared.recipes import needs
from tasks.recipe.gate_sets.expand import said
from tasks.recipe.models import Gate, Recipe, Step


def dag_text(recipe: Recipe, path: Path, gates: Sequence[Gate]) -> str:
    """The DAG's page: what the recipe says, its steps, its gates, and what one can do."""
    steps = [
        f"| `{name}` | {step.stage} | {step.method or 'default'} | {_quoted(reads) or '-'} |"
        for (name, step), reads in zip(recipe.steps.items(), needs(recipe).values(), strict=True)
    ]
    lines = [
        recipe.description.strip(),
        "",
        f"From `recipes/{path.name}`; maintains the registered model `{recipe.model}`. {_when(recipe)}",
        "",
        "| step | stage | method | reads |",
        "|---|---|---|---|",
        *steps,
        "",
        *_release(recipe, gates),
        "A run in which nothing changed ends green as *no change*. Every step resumes where it was stopped.",
    ]
    return "\n".join(lines)


def step_text(step: Step) -> str:
    """A step's own documentation: inputs and options as the recipe has them."""
    inputs = [
        f"- `{port}`: {_quoted([given] if isinstance(given, str) else given)}"
        for port, given in step.inputs.items()
    ]
    options = [f"- `{name}`: `{value}`" for name, value in step.options.items()]
    lines = [f"**{step.stage}**, method {step.method or 'default'}, on {step.resources}.", ""]
    lines += ["Inputs:", "", *inputs, ""] if inputs else []
    lines += ["Options that differ from the defaults:", "", *options] if options else []
    return "\n".join(lines)


def _quoted(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _when(recipe: Recipe) -> str:
    schedule = recipe.schedule
    if schedule is None or not (schedule.cron or schedule.on):
        return "Runs when triggered."
    words = [f"at `{schedule.cron}` UTC"] if schedule.cron else []
    words += (
        ["when " + " and ".join(f"`{name}`" for name in schedule.on) + " has news"] if schedule.on else []
    )
    return f"Runs {' or '.join(words)}."


def _release(recipe: Recipe, gates: Sequence[Gate]) -> list[str]:
    if recipe.release is None:
        return []
    rules = [f"- **{gate.gate}** ({gate.severity}): {said(gate)}. {gate.reason}" for gate in gates]
    who = "a person approves" if recipe.release.approval == "human" else "the gates pass"
    return [f"`{recipe.release.candidate}` goes to production once {who}. Gates:", "", *rules, ""]
