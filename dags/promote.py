"""Put a registered version into production by hand: a person sees its summary, decides, and says why.

A version whose recipe asks for two approvals needs two different people here too.
"""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import DAG, Param, chain
from runtimes.process import ProcessOperator, answer
from shared.approval import SECOND, TASK, promotion, question, report_link, second_body, second_question
from shared.form import MODEL, OPTIONAL, VERSION
from shared.notify import Notice
from shared.smoke import check_task, has_machines


def summary(model: str, version: str) -> str:
    """The version's report in short, as Markdown, and where all of it is."""
    found = _evidence(model, version)
    return report_link(f"runs/{found['run']}/report") + str(found["markdown"])


def two(context: Any) -> bool:
    """Whether the version needs a second approval."""
    params = context["params"]
    return int(_evidence(params["model"], params["version"])["approvals"]) > 1


def smokes(context: Any) -> bool:
    """Whether the version has a smoke test."""
    params = context["params"]
    return bool(_evidence(params["model"], params["version"])["smoke"])


def smoke(context: Any) -> list[str]:
    """The smoke test of the version."""
    return ["smoke", str(context["params"]["model"]), str(context["params"]["version"])]


def target(context: Any) -> list[str]:
    """The arguments that name the version."""
    params = context["params"]
    return [f"--model={params['model']}", f"--version={params['version']}"]


def commands(context: Any) -> list[list[str]]:
    """Promote or reject, as was answered; over a champion that it was not judged against only if told so."""
    (command,) = promotion((TASK, SECOND), target)(context)
    over = context["params"]["over"]
    return [[*command, f"--over={over}"] if over and command[0] == "promote" else [*command]]


def _evidence(model: str, version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        answer("summary", f"--model={model}", f"--version={version}", "--json")
    )
    return found


with DAG(
    dag_id="promote",
    description="Put a registered version into production, after a person approved it.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["release"],
    default_args={"owner": "perennial", "on_failure_callback": Notice("failure")},
    params={
        "model": Param(type="string", **MODEL),
        "version": Param("candidate", type="string", **VERSION),
        "over": Param(
            None,
            type=list(OPTIONAL),
            title="Although champion is",
            description="Fill in the champion's version number where the version was judged against another "
            "one; without it such a promotion is refused.",
        ),
        "reason": Param(None, type=["null", "string"], title="Reason", description="Kept in the ledger."),
    },
    user_defined_macros={
        "summary": summary,
        "second": lambda ti, params: second_body(ti, lambda: summary(params["model"], params["version"])),
    },
) as dag:
    subject = "Promote {{ params.model }} {{ params.version }}?"
    chain(
        question(subject, "{{ summary(params.model, params.version) }}"),
        second_question(f"{subject} (second person)", "{{ second(ti, params) }}", two),
        *(
            [check_task("promote", "any", "perennial", smoke, (TASK, SECOND), smokes)]
            if has_machines()
            else []
        ),
        ProcessOperator(
            task_id="promote",
            commands=commands,
            skipped_after="reject",
            on_success_callback=Notice("promotion", "{{ params.model }} {{ params.version }}"),
            trigger_rule="none_failed",  # the second question and the test are skipped where there is none
            doc_md="Moves the aliases `champion` and `previous` and writes the ledger, or records the "
            "rejection.",
        ),
    )
