"""Only a person's explicit yes promotes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from shared.approval import Decision, decide, promotion

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
    commands = promotion(True, lambda _: ["--plan", "P"])(context(answer))
    assert commands == [[command, "--plan", "P", "--by=ada", "--reason=why"]]


def test_without_a_reason_the_runs_reason_is_kept() -> None:
    answer = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": USER}
    commands = promotion(True, lambda _: [])(context(answer, "weekly"))
    assert commands == [["promote", "--by=ada", "--reason=weekly"]]


def test_without_a_person_the_policy_promotes() -> None:
    commands = promotion(False, lambda _: [])(context(None))
    assert commands == [["promote", "--by=policy", "--reason=all gates passed"]]
