"""The process runtime: what a task runs, in which environment, and what an exit code leads to."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped
from runtimes.failures import CommandFailed
from runtimes.process import ProcessOperator, answer, environment, lock_path, plan_of

from tasks.recipe.failures import ConfigInvalid, Failure

COMMAND = """
import sys
code = sys.argv[-1]
raise SystemExit(int(code) if code.isdigit() else 0)
"""
CONTEXT = {"run_id": "manual__1"}


@pytest.fixture(autouse=True)
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    monkeypatch.setenv("PERENNIAL_COMMAND", f"{sys.executable} {script}")
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    return script


def operator(commands: Any, **given: Any) -> ProcessOperator:
    with DAG(dag_id="d", schedule=None):
        task = ProcessOperator(task_id="t", commands=commands, **given)
        task >> ProcessOperator(task_id="after", commands=lambda _: [])
    return task


def run(task: ProcessOperator) -> None:
    """Execute outside of a task runner (Airflow wraps `execute` in a guard against just that)."""
    ProcessOperator.execute.__wrapped__(task, CONTEXT)  # type: ignore[attr-defined]


def test_success_ends_quietly_and_commands_run_in_order() -> None:
    task = operator(lambda context: [["plan", context["run_id"]], ["unchanged"]])
    seen: list[str] = []
    task.log.info = lambda text, *words: seen.append(text % words if words else text)  # type: ignore[method-assign]
    run(task)
    assert [each for each in seen if each.startswith("$")] == [
        "$ perennial plan manual__1",
        "$ perennial unchanged",
    ]


@pytest.mark.parametrize(("code", "failure"), [(2, Failure.CONFIG_INVALID), (6, Failure.INFRASTRUCTURE)])
def test_a_failure_has_the_class_of_its_exit_code(code: int, failure: Failure) -> None:
    with pytest.raises(CommandFailed, match=rf"perennial step failed: .*exit code {code}") as caught:
        run(operator(lambda _: [["step", str(code)]]))
    assert caught.value.failure is failure


def test_nothing_to_do_skips_everything_after_or_the_task_itself() -> None:
    with pytest.raises(DownstreamTasksSkipped) as caught:
        run(operator(lambda _: [["plan", "10"]], stops=True))
    assert caught.value.tasks == ["after"]
    with pytest.raises(AirflowSkipException):
        run(operator(lambda _: [["plan", "10"]]))


def test_a_recorded_rejection_ends_as_skipped() -> None:
    with pytest.raises(AirflowSkipException, match="perennial reject is done"):
        run(operator(lambda _: [["reject"]], skipped_after="reject"))


def test_an_approval_that_promoted_nothing_is_no_success_and_is_not_tried_again() -> None:
    with pytest.raises(AirflowFailException, match=r"approved by one person, and not promoted.*clear the"):
        run(operator(lambda _: [["promote", "11"]]))


def test_a_wrong_form_fails_without_a_retry() -> None:
    def commands(_: Any) -> list[list[str]]:
        raise ConfigInvalid("there is no step 'x'")

    with pytest.raises(AirflowFailException, match="there is no step 'x'"):
        run(operator(commands))


def test_a_killed_task_gives_its_command_time_to_end(tmp_path: Path, command: Path) -> None:
    command.write_text(
        "import pathlib, signal, sys, time\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "def stop(*_): (place / 'saved').write_text('yes'); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "(place / 'ready').write_text('yes')\n"
        "time.sleep(30)\n"
    )
    task = operator(lambda _: [["step"]])

    def kill() -> None:
        until = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < until:
            time.sleep(0.02)
        task.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(CommandFailed) as caught:
        run(task)
    killer.join()
    assert caught.value.failure is Failure.PREEMPTED
    assert (tmp_path / "saved").exists()


def test_the_guard_outlives_the_workers_process_group(tmp_path: Path, command: Path) -> None:
    sessions = tmp_path / "sessions"
    command.write_text(
        "import os, pathlib\n"
        f"pathlib.Path({str(sessions)!r}).write_text(f'{{os.getsid(0)}} {{os.getsid(os.getppid())}}')\n"
    )
    run(operator(lambda _: [["step"]]))
    own, guards = sessions.read_text().split()
    assert len({own, guards, str(os.getsid(0))}) == 3


def test_commands_do_not_see_airflows_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ("AIRFLOW__CORE__FERNET_KEY", "_AIRFLOW__AS_LIBRARY", "AIRFLOW_CONN_PAGER", "AIRFLOW_VAR_TEAM")
    for name in own:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    env = environment()
    assert set(own) & set(env) == set()
    assert env["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_the_plan_is_found_by_the_runs_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    assert plan_of("pydocs", "weekly") == "s3://bucket/store/runs/pydocs-weekly/plan.json"
    monkeypatch.delenv("PERENNIAL_STORE")
    with pytest.raises(AirflowFailException, match="PERENNIAL_STORE is not set"):
        plan_of("pydocs", "weekly")


def test_two_attempts_of_one_task_share_a_lock_and_no_others_do() -> None:
    assert lock_path("d", "r", "t") == lock_path("d", "r", "t")
    assert (
        len(
            {
                lock_path("d", "r", "t"),
                lock_path("d", "r", "u"),
                lock_path("d", "s", "t"),
                lock_path("e", "r", "t"),
            }
        )
        == 4
    )


def test_a_failing_summary_tells_its_last_words(command: Path) -> None:
    command.write_text("import sys; sys.exit('there is no summary')")
    with pytest.raises(CommandFailed, match="there is no summary"):
        answer("summary", "--plan", "P")
