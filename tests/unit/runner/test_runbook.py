"""Remedies of docs/operations.md about steps and runs: the alert, the command, and no alert any more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.artefacts import Store
from tasks.recipe.failures import DataInvalid, Diverged, Failure, Infrastructure, OutOfMemory, Preempted
from tasks.recipe.models import Budget
from tasks.recipe.plan import Plan, PlannedInput, PlannedStep
from tasks.runner import logbook, process, step
from tasks.runner.costs import raise_budget
from tasks.runner.process import step_process
from tasks.runner.settings import Settings
from tasks.runner.watchdog import Finding, Limits, look
from tasks.stage import Method, Options, Port, Result, StepContext
from tests.unit.runner.conftest import plan_of

URI = "{store}/runs/one/plan.json"


class Nothing(Options):
    """No options."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No MLflow, and Python's own handler of SIGTERM again afterwards."""
    monkeypatch.setattr(logbook, "log_step", lambda *_: "mlflow")
    monkeypatch.setattr(logbook, "log_failure", lambda *_: None)
    monkeypatch.setattr("tasks.tracking.registry.models", lambda *_: [])
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def works(context: StepContext, options: Nothing) -> Result:
    (context.output("made") / "text.txt").write_text("done")
    return Result(figure="done", metrics={})


def does(monkeypatch: pytest.MonkeyPatch, what: Callable[[StepContext, Nothing], Result]) -> None:
    """What the code of both steps does from now on."""
    method = Method("work", Nothing, {"text": Port(("documents",))}, {"made": "documents"}, what)
    monkeypatch.setattr(step, "load_method", lambda *_: method)


@pytest.fixture
def plan(data: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A run of the steps `first` and `second`, planned and not begun."""
    does(monkeypatch, works)
    steps = [
        PlannedStep(
            name=name, stage="merge", method="work", options={}, seed=number, resources="cpu",
            inputs={"text": [PlannedInput(ref="data.x", kind="documents", digest=data)]},
            outputs={"made": "documents"}, hands_on=False,
        )
        for number, name in enumerate(("first", "second"))
    ]  # fmt: skip
    made = plan_of("one", steps)
    store.write("runs/one/plan.json", made.to_bytes())
    return made


def perennial_step(settings: Settings, name: str) -> int:
    return step_process(URI.format(store=settings.store), name, settings, fresh=False)


def watchdog(settings: Settings) -> list[Finding]:
    return look(settings, Limits(stale=timedelta(hours=6), free_bytes=0))


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ZeroDivisionError("division by zero"), Failure.BUG),
        (DataInvalid("rule 'unique_keys' failed in 3 rows"), Failure.DATA_INVALID),
        (OutOfMemory("12.0 GiB are needed and 8.0 GiB are there"), Failure.OUT_OF_MEMORY),
        (Preempted("saved at step 40; a retry goes on"), Failure.PREEMPTED),
        (Infrastructure("S3 cannot be reached"), Failure.INFRASTRUCTURE),
        (Diverged("the loss is nan at optimiser step 7"), Failure.DIVERGED),
    ],
    ids=lambda given: given.name.lower() if isinstance(given, Failure) else "",
)
@pytest.mark.usefixtures("plan")
def test_a_failed_step_is_started_again_and_the_failure_is_no_news_any_more(
    settings: Settings,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    raised: Exception,
    code: Failure,
) -> None:
    """Whatever was wrong, once it is right the same command makes the same run go on."""

    def fails(context: StepContext, options: Nothing) -> Result:
        raise raised

    does(monkeypatch, fails)
    assert perennial_step(settings, "first") == code
    assert f"first: {code.name.lower().replace('_', ' ')}: " in capfd.readouterr().err
    assert store.stat("runs/one/failures/first.json") is not None
    does(monkeypatch, works)
    assert perennial_step(settings, "first") == 0
    assert process.read_plan(URI.format(store=settings.store))[0].run == "one"
    assert store.stat("runs/one/steps/first.json") is not None


@pytest.mark.usefixtures("plan")
def test_a_run_that_stands_still_goes_on_with_the_step_that_the_watchdog_names(
    settings: Settings, store: Store
) -> None:
    perennial_step(settings, "first")
    for stat in store.list("runs/one/"):
        path = store.local_path(stat.key)
        assert path is not None
        os.utime(path, (time.time() - 7 * 3600,) * 2)
    (found,) = watchdog(settings)
    assert (found.check, found.subject) == ("run", "one")
    assert found.words == "has written nothing for 7 hours, 1 of 2 steps done, next second"
    assert perennial_step(settings, "second") == 0
    assert watchdog(settings) == []


def test_a_run_near_its_budget_is_given_another(plan: Plan, settings: Settings, store: Store) -> None:
    limited = plan.model_copy(update={"budget": Budget(device_hours=1e-9), "rates": {}})
    store.write("runs/one/plan.json", limited.to_bytes())
    assert perennial_step(settings, "first") == Failure.OVER_BUDGET
    ((check, words),) = [(each.check, each.words) for each in watchdog(settings)]
    assert (check, words.endswith("of 1e-09 device hours")) == ("budget", True)
    raise_budget(settings, URI.format(store=settings.store), Budget(device_hours=6), "ada", "it grew")
    assert perennial_step(settings, "first") == 0
    assert watchdog(settings) == []


def test_a_disk_that_is_full_is_told_with_its_place_and_the_step_goes_on(
    plan: Plan, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(context: StepContext, options: Nothing) -> Result:
        raise OSError(28, "No space left on device", str(Path("/scratch/x")))

    does(monkeypatch, fails)
    assert perennial_step(settings, "first") == Failure.INFRASTRUCTURE
    said = capfd.readouterr().err
    assert "first: infrastructure: the disk is full at /scratch/x: free space, then retry" in said
    does(monkeypatch, works)
    assert perennial_step(settings, plan.steps[0].name) == 0
