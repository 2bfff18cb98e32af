"""A person's decision: the question with the report's summary, and what the answer leads to.

The default is Reject: a question nobody answers in time, or a task somebody marks as successful by hand,
never promotes a model. Where a recipe asks for two approvals (`release.approvals: 2`), a second question goes
to another person; the first one's answer to it does not count. The command counts the names again: where the
second question was skipped by hand, the first approval is on record and the task `promote` fails and says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlparse

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput
from airflow.sdk.execution_time.hitl import upsert_hitl_detail
from runtimes.process import Commands

from shared.notify import Notice
from tasks.recipe.models import NOBODY

APPROVE = "Approve"
REJECT = "Reject"
TASK = "approve"
SECOND = "approve_second"
Target = Callable[[Any], Sequence[str]]


@dataclass(frozen=True)
class Decision:
    """Whether the model goes to production, who said so, and why."""

    approved: bool
    by: str
    reason: str


class SecondApproval(HITLOperator):
    """Asks another person than the one who approved first, where one is needed.

    The first one's own approval is not taken: the question stays open, with a line in the log. A rejection
    counts from anybody.

    Args:
        needed: From Airflow's context: whether a second approval is asked for at all.
    """

    def __init__(self, *, needed: Callable[[Any], bool], **given: Any) -> None:
        super().__init__(**given)
        self.needed = needed

    def execute(self, context: Any) -> Any:
        """Ask, unless the first answer or the version makes it idle."""
        if not decide(_first(context)).approved:
            raise AirflowSkipException("the first answer was no approval")
        if not self.needed(context):
            raise AirflowSkipException("one approval is enough for this version")
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Take the answer, or ask again where it came from the person who approved first."""
        given = super().execute_complete(context, event)
        if decide(given).approved and _person(given) == _person(_first(context)):
            self.log.warning("%s approved already; another person has to", decide(given).by)
            upsert_hitl_detail(  # takes the answer away: the question is open again
                ti_id=context["ti"].id,
                options=self.options,
                subject=self.subject,
                body=self.body,
                defaults=self.defaults,
                multiple=self.multiple,
                params=self.serialized_params,
                assigned_users=self.assigned_users,
            )
            raise TaskAwaitingInput(method_name="execute_complete", timeout=self.response_timeout)
        return given


def question(subject: str, body: str) -> HITLOperator:
    """The task that asks.

    Args:
        subject: The headline.
        body: Markdown; a template, so that the summary is of the moment the question is asked.
    """
    return HITLOperator(
        task_id=TASK,
        subject=subject,
        body=body,
        **_common(),
        doc_md="Waits for a person. Without an answer in time the model is rejected.",
    )


def second_question(subject: str, body: str, needed: Callable[[Any], bool]) -> SecondApproval:
    """The task that asks another person, after the first approved.

    Args:
        subject: The headline.
        body: Markdown; a template.
        needed: From Airflow's context: whether a second approval is asked for.
    """
    return SecondApproval(
        task_id=SECOND,
        subject=subject,
        body=body,
        needed=needed,
        **_common(),
        doc_md="Waits for a second person: the one who approved first is not taken. Skipped where one is "
        "enough.",
    )


def second_body(ti: Any, summary: Callable[[], str]) -> str:
    """What the second question shows: who approved, and the same summary; nothing where it is not asked."""
    first = decide(ti.xcom_pull(task_ids=TASK))
    if not first.approved:
        return ""
    return f"**{first.by}** has approved. A second, different person has to approve too.\n\n{summary()}"


def report_link(place: str) -> str:
    """A line with the report's address in Airflow's own pages (dags/plugins), as Markdown.

    Args:
        place: Of the report below the plugin, such as `runs/pydocs-manual-1/report`.
    """
    base = urlparse(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    return f"[The report]({base}/perennial/{quote(place)})\n\n"


def decide(answer: Mapping[str, Any] | None) -> Decision:
    """Read the answer that Airflow kept; None where the task was marked by hand."""
    if not answer:
        return Decision(False, NOBODY, "the approval was marked as done without an answer")
    user = answer.get("responded_by_user")
    # The ledger joins two people's names by "and": one user who is called so must not count as two.
    name = str(user["name"] or user["id"]).replace(" and ", " & ") if user else NOBODY
    reason = str((answer.get("params_input") or {}).get("reason") or "")
    if answer["chosen_options"] == [APPROVE]:
        return Decision(True, name, reason)
    return Decision(False, name, reason or ("rejected" if user else "nobody answered in time"))


def decide_all(answers: Sequence[Mapping[str, Any] | None]) -> tuple[bool, list[str], str]:
    """Whether all approved, who decided, and why.

    Args:
        answers: The first one's, and the second one's where one was asked; None there where the task was
            skipped, which is one approval: exit code 11 if the version needs two.
    """
    decisions = [decide(answers[0]), *(decide(answer) for answer in answers[1:] if answer)]
    against = [each for each in decisions if not each.approved]
    if against:
        return False, [against[0].by], against[0].reason
    reasons = dict.fromkeys(each.reason for each in decisions if each.reason)
    return True, [each.by for each in decisions], "; ".join(reasons)


def promotion(asked: Sequence[str], target: Target, more: Sequence[str] = ()) -> Commands:
    """The commands of the task after the questions: promote, or record the rejection.

    Args:
        asked: The tasks in which people were asked; none where the gates alone decide.
        target: The arguments that say which version it is about.
        more: Further arguments of a promotion.
    """

    def commands(context: Any) -> list[list[str]]:
        approved, names, why = True, ["policy"], ""
        if asked:
            approved, names, why = decide_all([context["ti"].xcom_pull(task_ids=each) for each in asked])
        wanted = str(context["params"].get("reason") or "")
        reason = why or wanted or "all gates passed"
        command = "promote" if approved else "reject"
        people = [f"--by={name}" for name in names]
        return [[command, *target(context), *people, f"--reason={reason}", *(more if approved else ())]]

    return commands


def _common() -> dict[str, Any]:
    """What both questions have in common."""
    hours = float(os.environ.get("PERENNIAL_APPROVAL_HOURS", "24"))
    return {
        "options": [APPROVE, REJECT],
        "defaults": REJECT,
        "retries": 2,  # the summary may fail to load; an answer given within a moment may get lost (demo.py)
        "response_timeout": timedelta(hours=hours),
        "notifiers": [Notice("approval")],
        "params": {
            "reason": Param(
                None,
                type=["null", "string"],
                title="Reason",
                description="Kept in the ledger with the decision.",
            )
        },
    }


def _first(context: Any) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = context["ti"].xcom_pull(task_ids=TASK)
    return found


def _person(answer: Mapping[str, Any] | None) -> str:
    user = (answer or {}).get("responded_by_user") or {}
    return str(user.get("id") or user.get("name") or NOBODY).casefold()
