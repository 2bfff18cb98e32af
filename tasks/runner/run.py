"""`perennial run`: a whole plan on this machine, without Airflow; the same command for each step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from rich.console import Console

from tasks.artefacts import Store
from tasks.recipe.failures import Failure, PerennialError, failure_of
from tasks.recipe.plan import Plan
from tasks.runner.records import StepRecord, run_key
from tasks.runner.settings import Settings
from tasks.runner.step import Attempt, link, look


class StepFailed(PerennialError):
    """A step's process ended with a failure that it has already told."""

    def __init__(self, step: str, code: int) -> None:
        super().__init__(f"step '{step}' failed")
        self.failure: Failure = failure_of(code)  # type: ignore[misc]


def run_plan(
    plan: Plan, plan_uri: str, store: Store, settings: Settings, console: Console
) -> list[StepRecord]:
    """Run the steps in order; a cached one is linked here, any other gets a process of its own.

    Raises:
        StepFailed: The first step that failed; the steps before it are kept.
    """
    records: list[StepRecord] = []
    width = max(len(step.name) for step in plan.steps)
    for position, step in enumerate(plan.steps, 1):
        label = f"[{position:>2}/{len(plan.steps)}] {step.name:<{width}}"
        lookup, _, step = look(plan, step, store)
        if lookup.record is not None:
            quiet = Attempt(settings=settings, store=store, say=lambda _: None)
            record = link(plan, step, lookup, quiet)
            console.print(
                f"{label}  cached   {record.figure}  [dim]({lookup.reasons[0]})[/dim]", highlight=False
            )
        else:
            for reason in lookup.reasons:
                console.print(f"{label}  runs     [dim]{reason}[/dim]", highlight=False)
            started = time.monotonic()
            _run_process(plan_uri, step.name, settings, console, label)
            record = StepRecord.model_validate_json(store.read(run_key(plan.run, step.name)))
            took = time.monotonic() - started
            console.print(f"{label}  done     {record.figure}  [dim]{took:.0f} s[/dim]", highlight=False)
        records.append(record)
    return records


def _run_process(plan_uri: str, step: str, settings: Settings, console: Console, label: str) -> None:
    command = [sys.executable, "-m", "tasks.cli", "step", "--plan", plan_uri, "--step", step]
    environment = os.environ | {
        "PERENNIAL_HOME": str(settings.home),
        "PERENNIAL_STORE": settings.store,
        "MLFLOW_TRACKING_URI": settings.tracking,
    }
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        tail = list(_show(process, step, console, label))
    if process.returncode != 0:
        for line in tail:
            console.print(line, markup=False, highlight=False)
        raise StepFailed(step, process.returncode)


def _show(process: subprocess.Popen[str], step: str, console: Console, label: str) -> Iterator[str]:
    """Show the step's own lines as one line that changes; give back the last ones for a failure's report."""
    tail: list[str] = []
    assert process.stdout is not None
    with console.status(label) as status:
        for line in process.stdout:
            line = line.rstrip()
            if line.startswith(f"{step}: ") and "runs: " not in line:
                status.update(f"{label}  {line.removeprefix(f'{step}: ')}")
            tail = [*tail[-19:], line]
        process.wait()
    return iter(tail)
