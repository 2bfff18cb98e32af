"""Go back to the model that was in production before: the aliases change places, nothing is trained.

Two people may want it at once. Where the run says which version was seen in production, the second run is
refused instead of bringing the bad version in again; the page of a model always says it.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param
from runtimes.process import ProcessOperator
from shared.form import MODEL, OPTIONAL
from shared.notify import Notice

from tasks.recipe.models import NOBODY
from tasks.recipe.run_names import run_name


def commands(context: Any) -> list[list[str]]:
    """Roll back in the name of whoever triggered the run."""
    params = context["params"]
    by = context["dag_run"].triggering_user_name or NOBODY
    run = run_name("rollback", context["run_id"])
    shown = [
        f"--{flag}={params[name]}"
        for flag, name in (("from", "champion"), ("to", "previous"))
        if params[name]
    ]
    decided = [f"--by={by}", f"--reason={params['reason']}", f"--run={run}"]
    return [["rollback", str(params["model"]), *decided, *shown]]


with DAG(
    dag_id="rollback",
    description="Put the previous model back into production at once.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["release"],
    default_args={"owner": "perennial", "on_failure_callback": Notice("failure")},
    params={
        "model": Param(type="string", **MODEL),
        "reason": Param(
            type="string",
            minLength=1,
            title="Reason",
            description="What is wrong with the one in production.",
        ),
        "champion": Param(
            None,
            type=list(OPTIONAL),
            pattern="^[0-9]*$",
            title="Version that goes",
            description="Number of the version in production as you saw it: if somebody else was faster, "
            "nothing is done.",
        ),
        "previous": Param(
            None,
            type=list(OPTIONAL),
            pattern="^[0-9]*$",
            title="Version that comes back",
            description="Number of the previous version as you saw it.",
        ),
    },
) as dag:
    ProcessOperator(
        task_id="rollback",
        commands=commands,
        on_success_callback=Notice("rollback", "{{ params.model }}"),
        doc_md="Exchanges the aliases `champion` and `previous` and writes the ledger.",
    )
