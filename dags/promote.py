"""Put a registered version into production by hand: a person sees its summary, decides, and says why."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param
from runtimes.process import ProcessOperator, answer
from shared.approval import promotion, question


def summary(model: str, version: str) -> str:
    """The version's report in short, as Markdown."""
    return answer("summary", f"--model={model}", f"--version={version}")


def target(context: Any) -> list[str]:
    """The arguments that name the version."""
    params = context["params"]
    return [f"--model={params['model']}", f"--version={params['version']}"]


with DAG(
    dag_id="promote",
    description="Put a registered version into production, after a person approved it.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["release"],
    default_args={"owner": "perennial"},
    params={
        "model": Param(
            type="string", minLength=1, title="Model", description="Name of the registered model."
        ),
        "version": Param(
            "candidate",
            type="string",
            minLength=1,
            title="Version",
            description="A version's number, or an alias: candidate, previous.",
        ),
        "reason": Param(None, type=["null", "string"], title="Reason", description="Kept in the ledger."),
    },
    user_defined_macros={"summary": summary},
) as dag:
    ask = question(
        "Promote {{ params.model }} {{ params.version }}?", "{{ summary(params.model, params.version) }}"
    )
    ask >> ProcessOperator(
        task_id="promote",
        commands=promotion(True, target),
        skipped_after="reject",
        doc_md="Moves the aliases `champion` and `previous` and writes the ledger, or records the rejection.",
    )
