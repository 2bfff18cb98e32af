"""What is promoted is what people saw, wherever an alias moved while the question was open."""

from __future__ import annotations

import json
from typing import Any

import promote
import pytest


class Ti:
    """Keeps what a task keeps."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.kept["approve", key] = value

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.kept.get((task_ids, key))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that the command was asked about; it answers 4 for an alias, then 5."""
    seen: list[str] = []

    def answer(command: str, model: str, version: str, form: str) -> str:
        name = version.removeprefix("--version=")
        seen.append(name)
        number = name if name.isdigit() else str(3 + len(seen))
        return json.dumps({"version": number, "run": f"run-{number}", "approvals": 2, "markdown": number})

    monkeypatch.setattr(promote, "answer", answer)
    return seen


def test_the_question_keeps_the_number_that_the_alias_stood_for(asked: list[str]) -> None:
    ti, params = Ti(), {"model": "pydocs", "version": "candidate", "over": None, "reason": None}
    context = {"ti": ti, "params": params}
    assert promote.summary(ti, params).endswith("4")
    assert promote.summary(ti, params).endswith("4"), (
        "rendered once more as it goes on, and for the second question"
    )
    assert promote.two(context)
    assert asked == ["candidate", "4", "4"]
    user = {"id": "7", "name": "ada"}
    ti.kept["approve", "return_value"] = {
        "chosen_options": ["Approve"], "params_input": {"reason": "good"}, "responded_by_user": user
    }  # fmt: skip
    (command,) = promote.commands(context)
    version = ["--model=pydocs", "--version=4"]
    assert command == ["promote", *version, "--by=ada", "--reason=good", "--smoke-elsewhere"]


def test_where_nobody_was_asked_the_form_says_which(asked: list[str]) -> None:
    params = {"model": "pydocs", "version": "candidate", "over": None, "reason": None}
    (command,) = promote.commands({"ti": Ti(), "params": params})
    assert command[:3] == ["reject", "--model=pydocs", "--version=candidate"]
