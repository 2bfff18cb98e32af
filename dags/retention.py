"""Remove what nothing needs: first the list, then, where the form says so, the removal.

What a plan, a registered version or a line of a ledger names always stays, and so does everything younger
than the form's age. On its schedule the DAG only lists.
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
    return [["gc", f"--older-than={context['params']['older_than_days']}"]]


def removal(context: Any) -> list[list[str]]:
    """The same for good, where it was asked for."""
    params = context["params"]
    if not params["remove"]:
        raise AirflowSkipException("a dry run: the list is in the log of the task before")
    return [["gc", f"--older-than={params['older_than_days']}", "--apply"]]


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
