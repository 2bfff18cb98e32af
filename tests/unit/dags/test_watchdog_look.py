"""The watchdog's task: findings are told, and a crash is told as a crash."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from runtimes.failures import CommandFailed

from tasks import cli
from tasks.recipe.failures import Failure

DAGS = Path(__file__).resolve().parents[3] / "dags"
CONTEXT = {"params": {"stale_hours": 6, "approval_hours": 24, "free_gb": 5}}
FINDING = {"check": "disk", "subject": "/", "words": "full", "remedy": "perennial gc"}


@pytest.fixture
def task() -> Any:
    return runpy.run_path(str(DAGS / "watchdog_look.py"))["dag"].get_task("look")


def says(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    script = folder / "command.py"
    script.write_text(body)
    monkeypatch.setenv("PERENNIAL_COMMAND", f"{sys.executable} {script}")


def run(task: Any) -> None:
    type(task).execute.__wrapped__(task, CONTEXT)


def test_findings_fail_the_task_in_words(task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.dumps({"findings": [FINDING]})
    says(monkeypatch, tmp_path, f"print({told!r}); raise SystemExit({cli.FOUND})")
    with pytest.raises(AirflowFailException, match=r"^disk: /: full; perennial gc$"):
        run(task)
    says(monkeypatch, tmp_path, "print('{\"findings\": []}')")
    run(task)


def test_a_crash_is_told_with_its_own_words(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, tmp_path, "raise ZeroDivisionError('by nothing')")
    with pytest.raises(CommandFailed, match=r"ZeroDivisionError: by nothing") as caught:
        run(task)
    assert caught.value.failure is Failure.BUG
