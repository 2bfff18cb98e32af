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

COMMON = ("reason", "refresh", "overrides")

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
    return [*settings, *(f"--refresh={name}" for name in again)]
