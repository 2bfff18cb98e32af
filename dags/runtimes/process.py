"""The process runtime: a task is `perennial` as a process of the machine Airflow's worker runs on.

Settings, from the worker's environment:

- PERENNIAL_STORE: URI of the store, which every step finds its plan and inputs in (required).
- PERENNIAL_COMMAND: the command, default `<this Python> -m tasks.cli`.
- PERENNIAL_HOME: local state, default `.perennial` beside the DAGs' folder.
- PERENNIAL_GRACE_SECONDS: between SIGTERM and SIGKILL, time for a checkpoint, default 120.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from runtimes.failures import APPROVED, NOTHING_TO_DO, RETRIES, CommandFailed, RetryByClass
from tasks.recipe.failures import PerennialError
from tasks.recipe.run_names import plan_uri, run_name
from tasks.recipe.secrets import mask

ROOT = Path(__file__).resolve().parents[2]
"""The repository, or wherever the DAGs' folder lies: commands run here."""

AIRFLOWS = ("AIRFLOW__", "_AIRFLOW", "AIRFLOW_CONN_", "AIRFLOW_VAR_")
"""How variables begin that are Airflow's own, keys of its channels (docs/airflow.md) among them."""

GUARD = Path(__file__).with_name("guard.py")

NOT_PROMOTED = (
    "approved by one person, and not promoted: the version needs another one's approval, and nobody is asked "
    "for it any more. Let another person approve: clear the second question, start the DAG `promote`, or say "
    "`perennial promote` (the log above names the version)"
)

Commands = Callable[[Any], Sequence[Sequence[str]]]
"""From Airflow's context to the commands of a task: the arguments of `perennial`, in order."""


class ProcessOperator(BaseOperator):
    """Runs `perennial` commands one after the other; the exit code decides what Airflow does next.

    Args:
        commands: Gives the commands; what it raises as PerennialError fails the task without a retry.
        stops: What exit code 10 ("nothing to do") does: the task ends green and everything after it is
            skipped, where it otherwise skips the task itself.
        skipped_after: A command (its first word) after which the task is shown as skipped.
    """

    ui_color = "#e8f0fe"

    def __init__(
        self, *, commands: Commands, stops: bool = False, skipped_after: str = "", **given: Any
    ) -> None:
        super().__init__(do_xcom_push=False, retries=RETRIES, retry_policy=RetryByClass(), **given)
        self.commands = commands
        self.stops = stops
        self.skipped_after = skipped_after
        self._guard: subprocess.Popen[bytes] | None = None

    def execute(self, context: Any) -> None:
        """Run the commands and map the exit code."""
        try:
            commands = self.commands(context)
        except PerennialError as error:
            raise AirflowFailException(mask(str(error))) from None
        for arguments in commands:
            code = self._run(arguments, lock_path(self.dag_id, context["run_id"], self.task_id))
            if code == NOTHING_TO_DO:
                self._nothing_to_do()
            if code == APPROVED:
                raise AirflowFailException(NOT_PROMOTED)
            if code != 0:
                raise CommandFailed(f"perennial {arguments[0]}", code)
            if arguments[0] == self.skipped_after:
                raise AirflowSkipException(f"perennial {arguments[0]} is done")

    def on_kill(self) -> None:
        """Ask for a checkpoint and an end; the guard sees it through even when this process is killed."""
        if self._guard is not None and self._guard.poll() is None:
            self.log.info("stopping: SIGTERM, time for a checkpoint, then SIGKILL")
            self._guard.send_signal(signal.SIGTERM)

    def _run(self, arguments: Sequence[str], lock: Path) -> int:
        command = [*perennial(), *arguments]
        self.log.info("$ %s", mask(shlex.join(["perennial", *arguments])))
        grace = os.environ.get("PERENNIAL_GRACE_SECONDS", "120")
        guarded = [
            sys.executable,
            "-I",
            "-S",
            str(GUARD),
            "--lock",
            str(lock),
            "--grace",
            grace,
            "--",
            *command,
        ]
        with subprocess.Popen(
            guarded,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it must see the command to its end when the worker's group is killed
        ) as self._guard:
            assert self._guard.stdout is not None
            for line in self._guard.stdout:
                self.log.info("%s", mask(line.decode("utf-8", "replace").rstrip()))
        return self._guard.returncode

    def _nothing_to_do(self) -> None:
        if not self.stops:
            raise AirflowSkipException("nothing to do")
        self.log.info("no change: everything after this task is skipped")
        after = sorted(self.get_flat_relative_ids(upstream=False))
        raise DownstreamTasksSkipped(tasks=after)  # type: ignore[no-untyped-call]


def perennial() -> list[str]:
    """The command itself."""
    return shlex.split(os.environ.get("PERENNIAL_COMMAND", "")) or [sys.executable, "-m", "tasks.cli"]


def home() -> Path:
    """Where local state lives."""
    return Path(os.environ.get("PERENNIAL_HOME") or ROOT / ".perennial").absolute()


def lock_path(dag_id: str, run_id: str, task_id: str) -> Path:
    """The lock that two attempts of one task cannot hold at once."""
    return home() / "locks" / run_name(dag_id, run_id) / f"{task_id}.lock"


def plan_of(recipe: str, run_id: str) -> str:
    """Where a run's plan lies. Airflow passes no data between tasks: this is how they find it.

    Raises:
        AirflowFailException: PERENNIAL_STORE is not set.
    """
    store = os.environ.get("PERENNIAL_STORE")
    if not store:
        raise AirflowFailException("PERENNIAL_STORE is not set: give Airflow's workers the URI of the store")
    return plan_uri(store, run_name(recipe, run_id))


def environment() -> dict[str, str]:
    """The environment of a command: the worker's, without what is Airflow's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(AIRFLOWS)}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def answer(*arguments: str, codes: Sequence[int] = (0,)) -> str:
    """What a short `perennial` command prints (a summary for an approval).

    Args:
        arguments: Of the command.
        codes: Exit codes with which it has answered.

    Raises:
        CommandFailed: It failed; its last words are part of the message.
    """
    done = subprocess.run(
        [*perennial(), *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode not in codes:
        raise CommandFailed(f"perennial {arguments[0]}: {mask(done.stderr.strip()[-1000:])}", done.returncode)
    return done.stdout
