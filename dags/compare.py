"""Compare two registered versions: figures on the same items, and what differs in their making."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param
from runtimes.process import ProcessOperator
from shared.form import MODEL, VERSION
from shared.notify import Notice


def commands(context: Any) -> list[list[str]]:
    """The comparison that the form asks for."""
    params = context["params"]
    return [["compare", str(params["model"]), str(params["first"]), str(params["second"])]]


with DAG(
    dag_id="compare",
    description="Compare two registered versions of a model.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["release"],
    default_args={"owner": "perennial", "on_failure_callback": Notice("failure")},
    params={
        "model": Param(type="string", **MODEL),
        "first": Param("champion", type="string", **VERSION | {"title": "First version"}),
        "second": Param("candidate", type="string", **VERSION | {"title": "Second version"}),
    },
) as dag:
    ProcessOperator(
        task_id="compare",
        commands=commands,
        doc_md="Prints figures, differences with intervals, flips, and what differs in data and options.",
    )
