"""The smoke test of a version as tasks of their own, in a step's image.

Airflow's own image has no torch, so neither `register` nor `promote` can load a model there: `promote` takes
a test that passed within the last hour instead, and cannot repeat it. These tasks run it where the steps run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException
from runtimes.steps import StepTask
from runtimes.table import make_step, runtime_of

from shared.approval import decide_all
from shared.notify import Notice
from tasks.recipe.failures import ConfigInvalid

RECORD = "smoke_record"
CHECK = "smoke"
AFTER = "smoke_after"
SIZE = "cpu"
"""The test runs on the CPU, in the image of the steps that do not train."""

ROLLBACK = "take it back with `perennial rollback {model} --by YOU --reason ...` or the DAG `rollback`"

ELSEWHERE = "--smoke-elsewhere"
"""Tells `perennial promote` that these tasks run the test, so that it is not run twice."""

Command = Callable[[Any], Sequence[str]]


def has_machines() -> bool:
    """Whether this installation has a runtime for the test; recipes that ask for one are refused without."""
    try:
        runtime_of(SIZE)
    except ConfigInvalid:
        return False
    return True


def record_task(recipe: str, model: str, owner: str, command: Command) -> BaseOperator:
    """The task that records the answer of a version that was just registered, before anybody is asked.

    Args:
        recipe: Names the run's container or pod, with the run.
        model: The registered model.
        owner: The team in labels.
        command: From Airflow's context to the arguments of `perennial`.
    """
    return make_step(
        StepTask(
            name=RECORD,
            recipe=recipe,
            model=model,
            owner=owner,
            stage="release",
            resources=SIZE,
            doc_md="Loads the new version and records its answer to the recipe's `release.smoke`, unless "
            "that was done when it was registered.",
            command=command,
        )
    )


def check_task(
    recipe: str,
    model: str,
    owner: str,
    command: Command,
    asked: Sequence[str] = (),
    wanted: Callable[[Any], bool] = lambda _: True,
) -> BaseOperator:
    """The task that tests a version just before its promotion.

    Args:
        recipe: Names the run's container or pod, with the run.
        model: The registered model.
        owner: The team in labels.
        command: From Airflow's context to the arguments of `perennial`.
        asked: The tasks in which people were asked; after a rejection nothing is tested.
        wanted: From Airflow's context: whether the version has a smoke test at all.
    """

    def unless_idle(context: Any) -> Sequence[str]:
        answers = [context["ti"].xcom_pull(task_ids=each) for each in asked]
        if answers and not decide_all(answers)[0]:
            raise AirflowSkipException("the answer was no approval")
        if not wanted(context):
            raise AirflowSkipException("this version's recipe asks for no smoke test")
        return command(context)

    return make_step(
        StepTask(
            name=CHECK,
            recipe=recipe,
            model=model,
            owner=owner,
            stage="release",
            resources=SIZE,
            doc_md="Loads the version and compares its answer with the recorded one, in a step's image. "
            "Skipped after a rejection, and where the version has no smoke test.",
            trigger_rule="none_failed",  # a second question is skipped where one approval is enough
            command=unless_idle,
        )
    )


def after_task(
    recipe: str,
    model: str,
    owner: str,
    command: Command,
    subject: str,
    wanted: Callable[[Any], bool] = lambda _: True,
) -> BaseOperator:
    """The task that tests what was just promoted; it takes nothing back, and says how to.

    Args:
        recipe: Names the run's container or pod, with the run.
        model: The registered model.
        owner: The team in labels.
        command: From Airflow's context to the arguments of `perennial`.
        subject: The model in the notice of a failure, a template.
        wanted: From Airflow's context: whether the version has a smoke test at all.
    """

    def unless_idle(context: Any) -> Sequence[str]:
        if not wanted(context):
            raise AirflowSkipException("this version's recipe asks for no smoke test")
        return command(context)

    made = make_step(
        StepTask(
            name=AFTER,
            recipe=recipe,
            model=model,
            owner=owner,
            stage="release",
            resources=SIZE,
            doc_md="Loads the new champion and compares its answer with the recorded one, in a step's image. "
            "Skipped where nothing was promoted, and where the version has no smoke test. A failure takes "
            f"nothing back: {ROLLBACK.format(model='MODEL')}.",
            command=unless_idle,
        )
    )
    made.on_failure_callback = [Notice("failure", f"it is in production: {ROLLBACK.format(model=subject)}")]
    return made
