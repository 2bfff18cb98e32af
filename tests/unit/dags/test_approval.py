"""Only a person's explicit yes promotes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput
from shared import approval
from shared.approval import Decision, decide, decide_all, promotion, second_body, second_question

USER = {"id": "7", "name": "ada"}


def test_yes() -> None:
    answer = {"chosen_options": ["Approve"], "params_input": {"reason": "good"}, "responded_by_user": USER}
    assert decide(answer) == Decision(True, "ada", "good")


def test_no() -> None:
    answer = {"chosen_options": ["Reject"], "params_input": {"reason": ""}, "responded_by_user": USER}
    assert decide(answer) == Decision(False, "ada", "rejected")


def test_nobody_answered_in_time() -> None:
    answer: dict[str, Any] = {"chosen_options": ["Reject"], "params_input": {}, "responded_by_user": None}
    assert decide(answer) == Decision(False, "nobody", "nobody answered in time")


def test_a_task_marked_as_successful_by_hand_is_no_answer() -> None:
    assert not decide(None).approved


def context(answer: Any, reason: str = "") -> dict[str, Any]:
    return {"ti": SimpleNamespace(xcom_pull=lambda task_ids: answer), "params": {"reason": reason}}


@pytest.mark.parametrize(("option", "command"), [("Approve", "promote"), ("Reject", "reject")])
def test_the_answer_chooses_the_command(option: str, command: str) -> None:
    answer = {"chosen_options": [option], "params_input": {"reason": "why"}, "responded_by_user": USER}
    commands = promotion(["approve"], lambda _: ["--plan", "P"])(context(answer))
    assert commands == [[command, "--plan", "P", "--by=ada", "--reason=why"]]


def test_without_a_reason_the_runs_reason_is_kept() -> None:
    answer = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": USER}
    commands = promotion(["approve"], lambda _: [])(context(answer, "weekly"))
    assert commands == [["promote", "--by=ada", "--reason=weekly"]]


def test_without_a_person_the_policy_promotes() -> None:
    commands = promotion([], lambda _: [])(context(None))
    assert commands == [["promote", "--by=policy", "--reason=all gates passed"]]


BEN = {"id": "8", "name": "ben"}
YES = {"chosen_options": ["Approve"], "params_input": {"reason": "good"}, "responded_by_user": USER}
YES_TOO = {"chosen_options": ["Approve"], "params_input": {"reason": "fine"}, "responded_by_user": BEN}
NO = {"chosen_options": ["Reject"], "params_input": {"reason": "bad"}, "responded_by_user": BEN}


def test_both_names_and_reasons_go_to_the_ledger() -> None:
    answers = {"approve": YES, "approve_second": YES_TOO}
    given = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: answers[task_ids]), "params": {}}
    commands = promotion(["approve", "approve_second"], lambda _: ["--plan", "P"])(given)
    assert commands == [["promote", "--plan", "P", "--by=ada", "--by=ben", "--reason=good; fine"]]


@pytest.mark.parametrize("answers", [[NO, None], [YES, NO]])
def test_either_person_can_reject(answers: list[Any]) -> None:
    assert decide_all(answers) == (False, ["ben"], "bad")


def test_one_user_whose_name_reads_as_two_people_is_one() -> None:
    office = {**YES, "responded_by_user": {"id": "9", "name": "Research and Development"}}
    assert decide_all([office]) == (True, ["Research & Development"], "good")
    assert decide_all([office, YES_TOO])[1] == ["Research & Development", "ben"]


def test_a_second_question_that_was_marked_by_hand_adds_no_name() -> None:
    assert decide_all([YES, None]) == (True, ["ada"], "good")  # the command promotes nothing by it: exit 11


class Asked:
    """A second question outside of Airflow: what it was answered first, and whether it asked again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: Any, needed: bool = True) -> None:
        self.reopened: list[Any] = []
        monkeypatch.setattr(approval, "upsert_hitl_detail", lambda **given: self.reopened.append(given))
        with DAG(dag_id="d", schedule=None):
            self.task = second_question("Promote?", "body", lambda _: needed)
        ti = SimpleNamespace(id="ti", xcom_pull=lambda task_ids: first)
        self.context = {"ti": ti, "task_instance": ti, "params": {}}

    def execute(self) -> Any:
        return type(self.task).execute.__wrapped__(self.task, self.context)  # type: ignore[attr-defined]

    def answered(self, event: dict[str, Any]) -> Any:
        return self.task.execute_complete(self.context, {"responded_at": None, **event})


def test_the_second_question_is_not_asked_after_a_rejection_or_where_one_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(AirflowSkipException, match="no approval"):
        Asked(monkeypatch, NO).execute()
    with pytest.raises(AirflowSkipException, match="one approval is enough"):
        Asked(monkeypatch, YES, needed=False).execute()


def test_who_approved_first_cannot_approve_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, YES)
    with pytest.raises(TaskAwaitingInput) as parked:
        asked.answered({**YES, "responded_at": SimpleNamespace(isoformat=str)})
    assert parked.value.timeout == asked.task.response_timeout
    assert len(asked.reopened) == 1


def test_another_person_can_and_anybody_can_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (YES_TOO, {**NO, "responded_by_user": USER}):
        asked = Asked(monkeypatch, YES)
        given = asked.answered({**answer, "responded_at": SimpleNamespace(isoformat=str)})
        assert given["responded_by_user"] == answer["responded_by_user"]
        assert asked.reopened == []


def test_the_second_question_says_who_approved_and_reads_no_summary_where_it_is_not_asked() -> None:
    def unread() -> str:
        raise AssertionError("the summary was read")

    body = second_body(SimpleNamespace(xcom_pull=lambda task_ids: YES), lambda: "the table")
    assert body.startswith("**ada** has approved.")
    assert body.endswith("the table")
    no = SimpleNamespace(xcom_pull=lambda task_ids: NO)
    assert second_body(no, unread) == ""
