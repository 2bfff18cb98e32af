"""Secrets do not get into Airflow's logs: not with the command, not with what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from airflow.sdk import DAG
from runtimes.failures import CommandFailed
from runtimes.process import ProcessOperator, answer

TOKEN = "hf_" + "aB3d" * 8
PASSWORD = "correct horse battery"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "command.py"
    monkeypatch.setenv("PERENNIAL_COMMAND", f"{sys.executable} {script}")
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TEAM_PASSWORD", PASSWORD)
    return script


def test_the_command_and_its_output_are_masked(command: Path) -> None:
    command.write_text(f"print('logging in with {TOKEN} and {PASSWORD}, loss 2.5')")
    with DAG(dag_id="d", schedule=None):
        task = ProcessOperator(task_id="t", commands=lambda _: [["plan", f"--set=note={TOKEN}"]])
    seen: list[str] = []
    task.log.info = lambda text, *words: seen.append(text % words if words else text)  # type: ignore[method-assign]
    ProcessOperator.execute.__wrapped__(task, {"run_id": "manual__1"})  # type: ignore[attr-defined]
    assert "$ perennial plan --set=note=***" in seen
    assert "logging in with *** and ***, loss 2.5" in seen
    assert TOKEN not in str(seen)
    assert PASSWORD not in str(seen)


def test_the_last_words_of_a_failed_command_are_masked(command: Path) -> None:
    command.write_text(f"import sys; sys.exit('refused: {TOKEN}')")
    with pytest.raises(CommandFailed, match=r"refused: \*\*\*"):
        answer("summary")
