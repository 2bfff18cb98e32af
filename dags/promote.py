"""Put a registered version into production by hand: a person sees its summary, decides, and says why.

A version whose recipe asks for two approvals needs two different people here too. Several questions may be
open at once; of two promotions of a model at the same instant one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow.sdk import DAG, Param, chain
from runtimes.process import ProcessOperator, answer
from shared.approval import SECOND, TASK, promotion, question, report_link, second_body, second_question
from shared.form import MODEL, OPTIONAL, VERSION
from shared.notify import Notice
from shared.smoke import ELSEWHERE, after_task, check_task, has_machines

NUMBER = "version"
"""Key under which the question keeps which version it is about: an alias may move while it is open."""


def summary(ti: Any, params: Mapping[str, Any]) -> str:
    """The version's report in short, as Markdown, and where all of it is."""
    number = ti.xcom_pull(task_ids=TASK, key=NUMBER)
    found = _evidence(params["model"], number or params["version"])
    if number is None:  # not where the question goes on after its answer
        ti.xcom_push(key=NUMBER, value=str(found["version"]))
    return report_link(f"runs/{found['run']}/report") + str(found["markdown"])


def two(context: Any) -> bool:
    """Whether the version needs a second approval."""
    return int(_evidence(context["params"]["model"], asked_about(context))["approvals"]) > 1


def asked_about(context: Any) -> str:
    """The number of the version that people saw; what the form says where nobody was asked."""
    return str(context["ti"].xcom_pull(task_ids=TASK, key=NUMBER) or context["params"]["version"])


def smokes(context: Any) -> bool:
    """Whether the version has a smoke test."""
    return bool(_evidence(context["params"]["model"], asked_about(context))["smoke"])


def smoke(context: Any) -> list[str]:
    """The smoke test of the version."""
    return ["smoke", str(context["params"]["model"]), asked_about(context)]


def smoke_after(context: Any) -> list[str]:
    """The same once more, after the promotion."""
    return [*smoke(context), "--after"]


def target(context: Any) -> list[str]:
    """The arguments that name the version."""
    return [f"--model={context['params']['model']}", f"--version={asked_about(context)}"]


def commands(context: Any) -> list[list[str]]:
    """Promote or reject, as was answered; over a champion that it was not judged against only if told so."""
    (command,) = promotion((TASK, SECOND), target, [ELSEWHERE] if has_machines() else [])(context)
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
    max_active_runs=16,  # a question may wait for a day, and must not hold up those about other models
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
        "second": lambda ti, params: second_body(ti, lambda: summary(ti, params)),
    },
) as dag:
    subject = "Promote {{ params.model }} {{ params.version }}?"
    chain(
        question(subject, "{{ summary(ti, params) }}"),
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
        *(
            [after_task("promote", "any", "perennial", smoke_after, "{{ params.model }}", smokes)]
            if has_machines()
            else []
        ),
    )
