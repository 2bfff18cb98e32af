"""Measure any registered version on any suite, without training anything.

A suite is an evaluate step of a recipe. What it measures on is the recipe's; the model is the version, beside
what is in production and, if you name one, another version. The report goes to the store, to MLflow and to
the page of the run (`perennial report RUN`).
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param
from runtimes.process import ProcessOperator
from shared.form import MODEL, OPTIONAL, VERSION
from shared.notify import Notice
from shared.recipes import Found, folder, read

from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.overrides import overrides_arguments, parse_overrides_text
from tasks.recipe.problems import did_you_mean
from tasks.recipe.run_names import run_name

found: dict[str, Found] = {each.recipe.recipe: each for each in read(folder()).good}


def suites(of: Found) -> str:
    """The evaluate steps of a recipe, for people."""
    names = [name for name, step in of.recipe.steps.items() if step.stage == "evaluate"]
    return f"{of.recipe.recipe}: {', '.join(names) or 'none'}"


def commands(context: Any) -> list[list[str]]:
    """The evaluation that the form asks for."""
    params = context["params"]
    recipe = str(params["recipe"])
    if recipe not in found:
        raise ConfigInvalid(f"there is no recipe '{recipe}'; {did_you_mean(recipe, list(found))}")
    command = [
        "evaluate",
        str(params["model"]),
        str(params["version"]),
        f"--recipe={found[recipe].path}",
        f"--run={run_name('evaluate', context['run_id'])}",
    ]
    for name in ("suite", "against"):
        if params[name]:
            command.append(f"--{name}={params[name]}")
    changes = overrides_arguments(parse_overrides_text(str(params["overrides"] or "")))
    return [[*command, *(f"--set={change}" for change in changes)]]


with DAG(
    dag_id="evaluate",
    description="Measure a registered version on a suite of a recipe.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["release"],
    default_args={"owner": "perennial", "on_failure_callback": Notice("failure")},
    params={
        "model": Param(type="string", **MODEL),
        "version": Param("champion", type="string", **VERSION),
        "recipe": Param(
            next(iter(found), None),
            type="string",
            enum=list(found) or None,
            title="Recipe",
            description="Whose suite.",
        ),
        "suite": Param(
            None,
            type=list(OPTIONAL),
            title="Suite",
            description="An evaluate step of the recipe; the one of its release where this is empty. There "
            f"are: {'; '.join(suites(each) for each in found.values())}",
        ),
        "against": Param(
            None,
            type=list(OPTIONAL),
            title="Against",
            description="Another version to compare with as the base: a number or an alias.",
        ),
        "overrides": Param(
            None,
            type=list(OPTIONAL),
            format="multiline",
            title="Changes to the suite",
            description="YAML, one change on each line, such as steps.report.options.limit: 100",
        ),
    },
) as dag:
    ProcessOperator(
        task_id="evaluate",
        commands=commands,
        doc_md="Measures, prints the figures with their intervals, and keeps the report. What was measured "
        "before on the same items is not measured again.",
    )
