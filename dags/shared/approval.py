"""A person's decision: the question with the report's summary, and what the answer leads to.

The default is Reject: a question nobody answers in time, or a task somebody marks as successful by hand,
never promotes a model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from runtimes.process import Commands

from tasks.recipe.models import NOBODY

APPROVE = "Approve"
REJECT = "Reject"
TASK = "approve"
Target = Callable[[Any], Sequence[str]]


@dataclass(frozen=True)
class Decision:
    """Whether the model goes to production, who said so, and why."""

    approved: bool
    by: str
    reason: str


def question(subject: str, body: str) -> HITLOperator:
    """The task that asks.

    Args:
        subject: The headline.
        body: Markdown; a template, so that the summary is of the moment the question is asked.
    """
    hours = float(os.environ.get("PERENNIAL_APPROVAL_HOURS", "24"))
    return HITLOperator(
        task_id=TASK,
        subject=subject,
        body=body,
        options=[APPROVE, REJECT],
        defaults=REJECT,
        retries=2,  # the summary may fail to load; an answer given within a moment may get lost (demo.py)
        response_timeout=timedelta(hours=hours),
        params={
            "reason": Param(
                None,
                type=["null", "string"],
                title="Reason",
                description="Kept in the ledger with the decision.",
            )
        },
        doc_md="Waits for a person. Without an answer in time the model is rejected.",
    )


def decide(answer: Mapping[str, Any] | None) -> Decision:
    """Read the answer that Airflow kept; None where the task was marked by hand."""
    if not answer:
        return Decision(False, NOBODY, "the approval was marked as done without an answer")
    user = answer.get("responded_by_user")
    name = str(user["name"] or user["id"]) if user else NOBODY
    reason = str(answer.get("params_input", {}).get("reason") or "")
    if answer["chosen_options"] == [APPROVE]:
        return Decision(True, name, reason)
    return Decision(False, name, reason or ("rejected" if user else "nobody answered in time"))


def promotion(asked: bool, target: Target) -> Commands:
    """The commands of the task after the question: promote, or record the rejection.

    Args:
        asked: A person was asked; otherwise the gates alone decide.
        target: The arguments that say which version it is about.
    """

    def commands(context: Any) -> list[list[str]]:
        decision = decide(context["ti"].xcom_pull(task_ids=TASK)) if asked else Decision(True, "policy", "")
        wanted = str(context["params"].get("reason") or "")
        reason = decision.reason or wanted or "all gates passed"
        command = "promote" if decision.approved else "reject"
        return [[command, *target(context), f"--by={decision.by}", f"--reason={reason}"]]

    return commands
