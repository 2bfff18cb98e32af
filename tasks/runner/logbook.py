"""What MLflow gets of a run: one parent run, one nested run per step, curves while a step runs."""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.artefacts import Store, fetch
from tasks.recipe.failures import Failure, PerennialError
from tasks.recipe.plan import Plan, PlannedStep
from tasks.recipe.run_names import plan_uri
from tasks.runner.records import StepRecord
from tasks.runner.settings import Settings
from tasks.tracking import runs
from tasks.tracking.runs import Point, RunFacts, StepFacts

LIVE_SECONDS = 15.0
"""How often a running step sends its curves; one that ends sooner sends them once, at its end."""

POINTS = "points.jsonl"
"""The file in a step's scratch directory that keeps its curves over a kill."""

SHOWN_KINDS = ("validation", "report")
"""Artefacts made of documents for people, which MLflow shows beside the step."""


def open_parent(plan: Plan, uri: str) -> str:
    """Find or create the MLflow run of a whole plan."""
    tags = {"recipe_digest": plan.recipe_digest, "intent": plan.intent}
    tags |= {f"data.{name}": pin.digest for name, pin in plan.data.items()}
    return runs.open_parent(RunFacts(plan.model, plan.run, plan.recipe, uri, tags=tags))


def log_step(
    plan: Plan, record: StepRecord, points: Iterable[Point], settings: Settings, store: Store
) -> str:
    """Log a finished or linked step whole; a second call changes nothing.

    Returns:
        The MLflow run id of the step.

    Raises:
        Infrastructure: MLflow is unreachable; the result is in the store, so a retry only logs.
    """
    run = runs.open_step(open_parent(plan, plan_uri(store.uri, plan.run)), _facts(record))
    runs.log_metrics(run, points, skip_logged=True)
    if not record.cached:
        taken = {
            "device_hours": record.device_seconds / 3600,
            "cost": record.cost,
            "energy_kwh": record.energy_kwh,
        }
        figures = record.metrics | {name: value for name, value in taken.items() if value is not None}
        runs.log_metrics(run, [Point(name, value) for name, value in figures.items()], skip_logged=True)
    runs.log_outputs(
        run,
        outputs={name: output.digest for name, output in record.outputs.items()},
        cached=record.cached,
        reasons=record.reasons,
        device_seconds=None if record.cached else record.device_seconds,
        made_by=record.run if record.cached else "",
    )
    runs.set_tags(run, {"perennial.figure": record.figure})
    if not record.cached:
        _log_documents(run, record, settings, store)
    runs.end(run, "FINISHED")
    return run


def log_failure(plan: Plan, step: PlannedStep, failure: Failure, message: str, store: Store) -> None:
    """Say in MLflow that a step failed and why; a retry opens the same run again."""
    parent = open_parent(plan, plan_uri(store.uri, plan.run))
    facts = StepFacts(step.name, step.stage, step.method, "", step.options)
    run = runs.open_step(parent, facts)
    runs.set_tags(run, {"perennial.failure": failure.name, "perennial.message": message})
    status = "KILLED" if failure in (Failure.PREEMPTED, Failure.OVER_BUDGET) else "FAILED"
    runs.end(run, status)
    runs.end(parent, status)


@contextlib.contextmanager
def live(plan: Plan, step: PlannedStep, fingerprint: str, work: Path, store: Store) -> Iterator[None]:
    """Send the curves of a running step every few seconds; an unreachable server only delays them."""
    # Before the thread starts: two threads that import MLflow and what it imports see half of each other's.
    importlib.import_module("mlflow")
    done = threading.Event()

    def send() -> None:
        run = None
        while not done.wait(LIVE_SECONDS):
            with contextlib.suppress(PerennialError):  # sent again at the end, where a failure is told
                if run is None:
                    parent = open_parent(plan, plan_uri(store.uri, plan.run))
                    facts = StepFacts(step.name, step.stage, step.method, fingerprint, step.options)
                    run = runs.open_step(parent, facts)
                runs.log_metrics(run, read_points(work), skip_logged=True)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _facts(record: StepRecord) -> StepFacts:
    return StepFacts(
        record.step, record.stage, record.method, record.fingerprint, record.options, record.inputs
    )


def _log_documents(run: str, record: StepRecord, settings: Settings, store: Store) -> None:
    for output in record.outputs.values():
        if output.kind not in SHOWN_KINDS:
            continue
        folder = fetch(store, output.digest, settings.home / "cache" / "artefacts")
        for path in sorted(folder.iterdir()):
            if path.suffix in runs.FILE_SUFFIXES:
                runs.log_file(run, path, output.kind)


def read_points(work: Path) -> list[Point]:
    """The points of a step's curves; a point that a resumed attempt made again counts once."""
    points: dict[tuple[str, int], Point] = {}
    file = work / POINTS
    if not file.exists():
        return []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            name, value, step, time_ms = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed attempt may be cut; the resumed attempt made it again
        points[(name, step)] = Point(name, value, step, time_ms)
    return list(points.values())
