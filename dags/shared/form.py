"""The trigger form: the recipe's main options as typed fields, and what was filled in as arguments.

Flat scalars only: the form's widgets for lists and objects lose values (apache/airflow#55213, #45032).
Airflow checks a field's type and range when the run is triggered; what spans fields is checked by the recipe
language in the first task, before any step starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from shared.recipes import Found
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.form import overrides_from_form
from tasks.recipe.overrides import overrides_arguments, parse_overrides_text
from tasks.recipe.problems import did_you_mean
from tasks.recipe.run_names import run_name

COMMON = ("reason", "refresh", "overrides", "from_run", "from_step")

MODEL: dict[str, Any] = {
    "pattern": "^[^-/:\\s][^/:\\s]*$",  # it is an argument of a command, never one of its options
    "title": "Model",
    "description": "Name of the registered model.",
}
"""The field for a registered model."""

VERSION: dict[str, Any] = {
    "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$",
    "title": "Version",
    "description": "A version's number, or an alias: champion, candidate, previous.",
}
"""The field for one of its versions."""

OPTIONAL = ("null", "string")
"""The type of a text that may be left out: Airflow's form counts an empty `string` as missing."""


def form(found: Found) -> dict[str, Param]:
    """The fields of a recipe's form, in the order they are shown; every one has a valid default."""
    steps = list(found.recipe.steps)
    params = {
        "reason": Param(
            None,
            type=list(OPTIONAL),
            title="Reason",
            description="Why this run; it is kept with the promotion.",
        )
    }
    for each in found.fields:
        params[each["key"]] = Param(each["default"], section="Options", **each["schema"])
    params["refresh"] = Param(
        None,
        type=list(OPTIONAL),
        title="Steps to run again",
        description=f"Although nothing changed; names with commas between. The steps: {', '.join(steps)}.",
        section="More",
    )
    params["overrides"] = Param(
        None,
        type=list(OPTIONAL),
        format="multiline",
        title="Anything else",
        description="YAML, one change on each line, such as steps.merged.options.weight: 0.3",
        section="More",
    )
    params["from_run"] = Param(
        None,
        type=list(OPTIONAL),
        title="Take up again: run",
        description="Id of an earlier run of this DAG. Its data, its options and the results before the step "
        "below are reused, verified; the fields above are changes to it.",
        section="More",
    )
    params["from_step"] = Param(
        None,
        type=list(OPTIONAL),
        enum=[None, *steps],
        title="Take up again: from step",
        description="The first step to run again.",
        section="More",
    )
    return params


def arguments(params: Mapping[str, Any], conf: Mapping[str, Any], found: Found) -> list[str]:
    """What was filled in, as arguments of `perennial plan`.

    Args:
        params: The form's values, with defaults.
        conf: What the run was really triggered with; Airflow lets unknown keys pass, we do not.
        found: The recipe and the fields it offers.

    Raises:
        ConfigInvalid: A key or a step nobody knows, or one option set twice.
    """
    known = [*COMMON, *(each["key"] for each in found.fields)]
    for key in conf:
        if key not in known:
            raise ConfigInvalid(
                f"the run's configuration has an unknown key '{key}'; {did_you_mean(key, known)}"
            )
    steps = list(found.recipe.steps)
    again = [name.strip() for name in str(params["refresh"] or "").split(",") if name.strip()]
    for name in again:
        if name not in steps:
            raise ConfigInvalid(f"cannot run step '{name}' again; {did_you_mean(name, steps)}")
    chosen = overrides_from_form(params, found.fields)
    written = parse_overrides_text(str(params["overrides"] or ""))
    for key in written:
        if key in chosen:
            raise ConfigInvalid(f"'{key}' is set twice, by its field and by the text; leave one of them out")
    settings = [f"--set={argument}" for argument in overrides_arguments(chosen | written)]
    return [*settings, *(f"--refresh={name}" for name in again), *_taken_up(params, found)]


def _taken_up(params: Mapping[str, Any], found: Found) -> list[str]:
    """The arguments that take up an earlier run again, none where the form names none."""
    run, step = str(params.get("from_run") or "").strip(), str(params.get("from_step") or "")
    if bool(run) != bool(step):
        raise ConfigInvalid("to take up a run again, fill in both: which run, and from which step on")
    if not run:
        return []
    if step not in found.recipe.steps:
        raise ConfigInvalid(
            f"cannot start from step '{step}'; {did_you_mean(step, list(found.recipe.steps))}"
        )
    prefix = f"{found.recipe.recipe}-"
    name = run if run.startswith(prefix) else run_name(found.recipe.recipe, run)
    return [f"--from-run={name}", f"--from-step={step}"]
