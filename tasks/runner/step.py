"""A step's life: fingerprint, cache, inputs, the stage, commit, record, MLflow (architecture, section 4)."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from tasks.artefacts import Store, commit, fetch, load_manifest
from tasks.artefacts.checkpoints import StoreCheckpoints
from tasks.recipe.failures import ConfigInvalid, Infrastructure, Preempted
from tasks.recipe.fingerprints import fingerprint
from tasks.recipe.fingerprints import ingredients as ingredients_of
from tasks.recipe.plan import Plan, PlannedInput, PlannedStep
from tasks.runner import budget, logbook, ranks
from tasks.runner.cache import Lookup, look_up
from tasks.runner.context import Context, outputs_of
from tasks.runner.meter import Meter
from tasks.runner.records import (
    Output,
    StepRecord,
    latest_key,
    read_record,
    record_key,
    run_key,
    write_record,
)
from tasks.runner.relief import in_words, relief_of, relieve
from tasks.runner.reload import check_in_fresh_process
from tasks.runner.settings import Settings
from tasks.stage import Input, Method, Result


@dataclass
class Attempt:
    """What one execution of `run_step` needs beside the plan and the step's name.

    Attributes:
        fresh: Allow a start from step 0 although progress was recorded.
        stop: Set once SIGTERM came.
        say: Prints a line for the person who watches.
        interrupt: Ends a method that asks nobody whether to stop.
        fingerprint: Of the step, once it is known.
        context: The method's context once it runs (the signal handler looks at it).
    """

    settings: Settings
    store: Store
    fresh: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    say: Callable[[str], None] = print
    interrupt: Callable[[], None] = lambda: None
    fingerprint: str = ""
    context: Context | None = None


def run_step(plan: Plan, name: str, attempt: Attempt) -> StepRecord:
    """Execute one step of a plan, or link the result that is already there.

    Raises:
        PerennialError: With the class of the failure; its message is for the person who reads it.
    """
    lookup, inputs, step = look(plan, find_step(plan, name), attempt.store)
    if lookup.record is None:
        method = load_method(step.stage, step.method)
        changed = relieve(attempt.store, plan, step, lookup.fingerprint, method)
        if changed is not None:
            attempt.say(f"{name}: {in_words(step, changed)}")
            lookup, inputs, step = look(plan, step, attempt.store)
    attempt.fingerprint = lookup.fingerprint
    if lookup.record is not None:
        attempt.say(f"{name}: cached: {lookup.reasons[0]}")
        if ranks.rank() > 0:
            return lookup.record
        return link(plan, step, lookup, attempt)
    for reason in lookup.reasons:
        attempt.say(f"{name}: runs: {reason}")
    record = _execute(plan, step, lookup, inputs, attempt)
    _finish(plan, record, attempt)
    return record


def look(
    plan: Plan, step: PlannedStep, store: Store, *, known: Mapping[str, StepRecord] | None = None
) -> tuple[Lookup, dict[str, list[Output]], PlannedStep]:
    """Ask the cache about a step whose inputs are there.

    Args:
        plan: The plan of the run.
        step: The step to look up.
        store: Where the records are.
        known: Records of the steps before, where they are not (yet) the run's own.

    Returns:
        The answer, the inputs, and the step as it runs: with the options that it changes since it ran out of
        memory (tasks/runner/relief.py).
    """
    inputs = {
        port: [_resolve(plan, step, port, given, store, known or {}) for given in refs]
        for port, refs in step.inputs.items()
    }
    digests = {port: [each.digest for each in many] for port, many in inputs.items()}
    found = ingredients_of(step, digests, plan.code[step.name])
    while (changed := relief_of(store, fingerprint(found))) is not None:
        step = step.model_copy(update={"options": step.options | changed})
        found = ingredients_of(step, digests, plan.code[step.name])
    refresh_run = plan.run if step.name in plan.refresh else None
    return look_up(store, plan.recipe, step.name, found, refresh_run=refresh_run), inputs, step


def link(plan: Plan, step: PlannedStep, lookup: Lookup, attempt: Attempt) -> StepRecord:
    """Write this run's record of a cache hit and log it."""
    if lookup.record is None:
        raise ValueError(f"step '{step.name}' is no cache hit")
    record = lookup.record.model_copy(
        update={
            "step": step.name,
            "cached": lookup.record.run != plan.run or lookup.record.step != step.name,
            "reasons": lookup.reasons if lookup.record.run != plan.run else lookup.record.reasons,
        }
    )
    _finish(plan, record, attempt)
    write_record(attempt.store, latest_key(plan.recipe, step.name), lookup.record)
    return record


def work_directory(settings: Settings, fingerprint: str) -> Path:
    """The scratch directory of a fingerprint: the same after a restart."""
    return settings.home / "work" / fingerprint


def load_method(stage: str, method: str) -> Method:
    """Import the one stage that runs and find the method in its table."""
    table: Mapping[str, Method] = importlib.import_module(f"tasks.{stage}").METHODS
    return table[method]


def find_step(plan: Plan, name: str) -> PlannedStep:
    """The step of that name; ConfigInvalid lists the plan's steps otherwise."""
    for step in plan.steps:
        if step.name == name:
            return step
    raise ConfigInvalid(
        f"the plan has no step '{name}'; its steps are {', '.join(step.name for step in plan.steps)}"
    )


def _resolve(
    plan: Plan,
    step: PlannedStep,
    port: str,
    given: PlannedInput,
    store: Store,
    known: Mapping[str, StepRecord],
) -> Output:
    """The artefact behind a reference, as it is now."""
    if given.digest is not None:
        return Output(digest=given.digest, kind=given.kind)
    record = known.get(str(given.step)) or read_record(store, run_key(plan.run, str(given.step)))
    if record is None:
        raise Infrastructure(
            f"step '{step.name}': input '{port}' comes from step '{given.step}', which has no record in run "
            f"'{plan.run}'; run that step first"
        )
    return record.outputs[str(given.output)]


def _execute(
    plan: Plan,
    step: PlannedStep,
    lookup: Lookup,
    inputs: Mapping[str, list[Output]],
    attempt: Attempt,
) -> StepRecord:
    store, settings = attempt.store, attempt.settings
    started = _now()
    method = load_method(step.stage, step.method)
    try:
        options = method.options.model_validate(step.options)
    except ValidationError as error:
        raise ConfigInvalid(f"step '{step.name}': options of {step.stage}/{step.method}: {error}") from error
    guard = budget.Guard(store, plan, step, lookup.fingerprint)
    guard.ask(method, inputs)
    meter = Meter(store, plan, step, lookup.fingerprint, lambda: _tick(guard, attempt))
    guard.watch(meter)
    work = work_directory(settings, lookup.fingerprint)
    checkpoints = StoreCheckpoints(store, lookup.fingerprint, work)
    context = Context(
        step=step.name,
        seed=step.seed,
        work=work,
        cache=settings.home / "cache",
        inputs={
            port: [
                _fetch(store, settings, given, output)
                for given, output in zip(step.inputs[port], many, strict=True)
            ]
            for port, many in inputs.items()
        },
        checkpoints=guard.timed(checkpoints),
        fresh=attempt.fresh,
        method=method,
        store=store,
        progress_key=f"runs/{plan.run}/progress/{step.name}.json",
        stop=attempt.stop,
        over=guard.poll,
        say=lambda line: attempt.say(f"{step.name}: {line}"),
    )
    attempt.context = context
    first = ranks.rank() == 0
    live = logbook.live(plan, step, lookup.fingerprint, work, store) if first else contextlib.nullcontext()
    try:
        with meter, live:
            result = method.run(context, options)
    except Preempted as error:
        if guard.exceeded:
            raise guard.stopped(str(error)) from error
        raise
    if not first:
        raise SystemExit(0)  # as tasks.training.fit ends them: the result is rank 0's to commit
    _check_finite(step, result)
    producer = lookup.fingerprint
    parents = sorted({output.digest for many in inputs.values() for output in many})
    outputs = {
        name: Output(digest=given.digest, kind=given.kind, meta=dict(given.meta))
        for name, given in result.passed.items()
    }
    for name, directory in outputs_of(context, method, result.passed).items():
        check_in_fresh_process(step.name, directory)
        meta = dict(result.meta.get(name, {}))
        manifest = commit(
            store, directory, kind=method.outputs[name], parents=parents, producer=producer, meta=meta
        )
        outputs[name] = Output(digest=manifest.digest, kind=method.outputs[name], meta=meta)
    spent = meter.spent
    record = StepRecord(
        fingerprint=lookup.fingerprint,
        step=step.name,
        stage=step.stage,
        method=step.method,
        options=step.options,
        inputs={port: [each.digest for each in many] for port, many in inputs.items()},
        ingredients=ingredients_of(
            step,
            {port: [each.digest for each in many] for port, many in inputs.items()},
            plan.code[step.name],
        ),
        outputs=outputs,
        metrics=dict(result.metrics),
        figure=result.figure,
        reasons=lookup.reasons,
        run=plan.run,
        started=started,
        finished=_now(),
        device_seconds=round(spent.device_seconds, 3),
        attempts=meter.attempts,
        image=os.environ.get("PERENNIAL_IMAGE", ""),
        resources=step.resources,
        cost=spent.cost,
        energy_kwh=spent.energy_kwh,
    )
    write_record(store, record_key(lookup.fingerprint), record)
    write_record(store, latest_key(plan.recipe, step.name), record)
    meter.finish(spent)
    checkpoints.clear()
    return record


def _tick(guard: budget.Guard, attempt: Attempt) -> float:
    """Look at the budget; a method that asks nobody whether to stop is ended, once."""
    seconds = guard.tick()
    if guard.exceeded and not attempt.stop.is_set():
        attempt.stop.set()
        if attempt.context is not None and not attempt.context.cooperative:
            attempt.interrupt()
    return seconds


def _fetch(store: Store, settings: Settings, given: PlannedInput, output: Output) -> Input:
    path = fetch(store, output.digest, settings.home / "cache" / "artefacts")
    meta = load_manifest(store, output.digest).meta
    return Input(ref=given.ref, digest=output.digest, kind=output.kind, path=path, meta=meta)


def _finish(plan: Plan, record: StepRecord, attempt: Attempt) -> None:
    """Tell MLflow, then write the run's record, then drop the scratch directory.

    The result is already safe: where MLflow is away, a retry hits the cache and ends here again, with the
    points of the curves still in the scratch directory.
    """
    work = work_directory(attempt.settings, record.fingerprint)
    record.mlflow_run = logbook.log_step(
        plan, record, logbook.read_points(work), attempt.settings, attempt.store
    )
    write_record(attempt.store, run_key(plan.run, record.step), record)
    budget.settle(attempt.store, plan)
    shutil.rmtree(work, ignore_errors=True)


def _check_finite(step: PlannedStep, result: Result) -> None:
    for name, value in result.metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"step '{step.name}': metric '{name}' is {value}; a method must not report it")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
