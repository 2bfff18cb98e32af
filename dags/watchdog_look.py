"""Look for what nobody would notice by itself, every hour.

Runs that stopped moving, candidates that wait for a decision, budgets and disks about to run out, champions
whose signature, bytes or ledger do not verify any more. The task fails where there is something, and who is
to be told of it (`PERENNIAL_NOTIFY`, event `watchdog`) reads each finding with its remedy. Beside it, what a
webhook could not be told before is delivered.
"""

from __future__ import annotations

import json
import os
from typing import Any

from airflow.sdk import DAG, BaseOperator, CronTriggerTimetable, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from runtimes.process import ProcessOperator, answer
from shared.notify import Notice

FOUND = 12
"""Exit code of `perennial watchdog` where there is something to look at."""


class WatchdogOperator(BaseOperator):
    """Runs `perennial watchdog` and fails with what it found."""

    ui_color = "#fef3c7"

    def __init__(self, **given: Any) -> None:
        super().__init__(do_xcom_push=False, retries=0, **given)

    def execute(self, context: Any) -> None:
        """Look, and fail with every finding in words."""
        params = context["params"]
        limits = [
            f"--{name.replace('_', '-')}={params[name]}"
            for name in ("stale_hours", "approval_hours", "free_gb")
        ]
        told = json.loads(answer("watchdog", "--json", *limits, codes=(0, FOUND)))
        lines = [
            f"{each['check']}: {each['subject']}: {each['words']}; {each['remedy']}"
            for each in told["findings"]
        ]
        for line in lines:
            self.log.warning("%s", line)
        if lines:
            raise AirflowFailException("\n".join(lines))
        self.log.info("nothing to report")


def delivery(_: Any) -> list[list[str]]:
    """Deliver what is left, where a webhook is set up."""
    if not os.environ.get("PERENNIAL_WEBHOOK_URL"):
        raise AirflowSkipException("no webhook is set up (PERENNIAL_WEBHOOK_URL)")
    return [["deliver"]]


with DAG(
    dag_id="watchdog",
    description="Stuck runs and approvals, budgets, disks, champions that no longer verify.",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(os.environ.get("PERENNIAL_WATCHDOG_CRON", "17 * * * *"), timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["operation"],
    default_args={"owner": "perennial"},
    params={
        "stale_hours": Param(
            6.0,
            type="number",
            exclusiveMinimum=0,
            title="Stuck after [hours]",
            description="A run that wrote nothing for so long.",
        ),
        "approval_hours": Param(
            24.0,
            type="number",
            exclusiveMinimum=0,
            title="Forgotten after [hours]",
            description="A candidate that waits for so long.",
        ),
        "free_gb": Param(
            5.0,
            type="number",
            minimum=0,
            title="Free disk [GB]",
            description="A disk with less than this.",
        ),
    },
) as dag:
    WatchdogOperator(
        task_id="look",
        on_failure_callback=Notice("watchdog"),
        doc_md="Looks and changes nothing.",
    )
    ProcessOperator(
        task_id="deliver",
        commands=delivery,
        on_failure_callback=Notice("failure"),
        doc_md="Tells the webhook of decisions that it could not be told of; skipped where there is none.",
    )
