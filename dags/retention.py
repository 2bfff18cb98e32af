"""Remove what nothing needs: first the list, then, where the form says so, the removal.

What a plan, a registered version or a line of a ledger names stays, and so does everything younger than the
form's age; of runs older than the form's second age only what their versions need stays. On its schedule the
DAG only lists.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param
from airflow.sdk.exceptions import AirflowSkipException
from runtimes.process import ProcessOperator
from shared.notify import Notice


def listing(context: Any) -> list[list[str]]:
    """The dry run."""
    params = context["params"]
    runs = params["runs_older_than_days"]
    command = ["gc", f"--older-than={params['older_than_days']}"]
    return [[*command, f"--runs-older-than={runs}"] if runs is not None else command]


def removal(context: Any) -> list[list[str]]:
    """The same for good, where it was asked for."""
    if not context["params"]["remove"]:
        raise AirflowSkipException("a dry run: the list is in the log of the task before")
    (command,) = listing(context)
    return [[*command, "--apply"]]


with DAG(
    dag_id="retention",
    description="List what nothing needs any more, and remove it on request.",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(os.environ.get("PERENNIAL_RETENTION_CRON", "0 4 * * 0"), timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["operation"],
    default_args={"owner": "perennial", "on_failure_callback": Notice("failure")},
    params={
        "older_than_days": Param(
            float(os.environ.get("PERENNIAL_RETENTION_DAYS", "30")),
            type="number",
            minimum=1,
            title="Age [days]",
            description="Whatever is younger stays: a run may be about to refer to it.",
        ),
        "runs_older_than_days": Param(
            None,
            type=["null", "number"],
            minimum=1,
            title="Age of runs [days]",
            description="Older runs keep only what their registered versions need (weights, report, data, "
            "parents), and what an alias is on keeps all. Empty: every run keeps all that it made.",
        ),
        "remove": Param(
            False,
            type="boolean",
            title="Remove",
            description="Off: only list. On: list, then remove what was listed.",
        ),
    },
) as dag:
    list_ = ProcessOperator(
        task_id="list",
        commands=listing,
        doc_md="Says what could go, why, and how much it is. Removes nothing.",
    )
    list_ >> ProcessOperator(
        task_id="remove",
        commands=removal,
        doc_md="Removes it; skipped in a dry run. An object that was written to since stays.",
    )
