"""`perennial watchdog`: what nobody would notice by itself.

Runs that stopped moving, decisions that nobody takes, budgets and disks about to run out, and a champion that
is not what was signed any more. It looks, says, and changes nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Literal

from tasks.artefacts import Stat, Store, open_store, problems
from tasks.recipe.failures import PerennialError
from tasks.recipe.plan import Plan
from tasks.release import promote as decisions
from tasks.release import signature
from tasks.release.audit import models
from tasks.runner.budget import limit_of, spent_by
from tasks.runner.settings import Settings
from tasks.tracking import ledger, registry

FORGOTTEN = timedelta(days=3)
"""A run untouched for longer was given up, and is news no more."""

NEAR = 0.8
"""The share of a budget from which on it is worth a word."""

Check = Literal["champion", "ledger", "approval", "run", "budget", "disk"]


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at.

    Attributes:
        check: Which look found it.
        subject: The model, run or place.
        words: What is wrong.
        remedy: What to do.
    """

    check: Check
    subject: str
    words: str
    remedy: str


@dataclass(frozen=True)
class Limits:
    """From when on something is worth a look.

    Attributes:
        stale: A run that wrote nothing for so long is stuck.
        approval: A candidate that waits for so long is forgotten.
        free_bytes: Less than this is too little on a disk.
    """

    stale: timedelta = timedelta(hours=6)
    approval: timedelta = timedelta(hours=24)
    free_bytes: int = 5_000_000_000


def look(settings: Settings, limits: Limits, now: datetime | None = None) -> list[Finding]:
    """Everything that deserves a look, the worst kinds first.

    Raises:
        Infrastructure: The store or MLflow is unreachable, which is a finding of its own.
    """
    store = open_store(settings.store)
    moment = now or datetime.now(UTC)
    found = list(_champions(store))
    found += _approvals(store, limits, moment)
    found += _runs(store, limits, moment)
    found += _disks(settings, store, limits)
    return found


def as_json(findings: list[Finding]) -> str:
    """For machines: `findings`, each with check, subject, words and remedy."""
    return json.dumps({"findings": [asdict(each) for each in findings]}, indent=1, ensure_ascii=False)


def _champions(store: Store) -> Iterator[Finding]:
    """Ledgers that do not verify or that MLflow contradicts, and champions that are not what was signed."""
    for model in models(store):
        for problem in decisions.audit(store, model):
            yield Finding("ledger", model, problem, f"see perennial history {model}; restore the ledger")
        champion = registry.find_version(model, "champion")
        if champion is None or not champion.digest:
            continue
        subject = f"{model} {champion.version}"
        try:
            signature.verify(store, champion)
        except PerennialError as error:
            yield Finding("champion", subject, str(error), f"until it is clear: perennial rollback {model}")
        for damage in problems(store, champion.digest):
            yield Finding(
                "champion",
                subject,
                f"its model in the store is damaged: {damage}",
                f"restore it from a backup, or run its recipe again; meanwhile: perennial rollback {model}",
            )


def _approvals(store: Store, limits: Limits, now: datetime) -> Iterator[Finding]:
    """Candidates that wait for a decision longer than a decision takes."""
    for model in sorted({stat.key.split("/")[1] for stat in store.list("ledger/")}):
        try:
            lines = ledger.history(store, model)
        except PerennialError:
            continue  # told by the look at the ledger
        waiting = None
        for line in lines:
            if line.action == "register":
                waiting = line
            elif waiting and line.to_version == waiting.to_version and line.action != "approve":
                waiting = None
        if waiting is None:
            continue
        age = now - datetime.fromisoformat(waiting.time)
        if age > limits.approval:
            yield Finding(
                "approval",
                f"{model} {waiting.to_version}",
                f"has waited for a decision for {_hours(age)}",
                f"perennial promote (or reject) --model {model} --version {waiting.to_version}",
            )


def _runs(store: Store, limits: Limits, now: datetime) -> Iterator[Finding]:
    """Runs that have neither ended nor moved, and runs that are near their budget."""
    for run, grouped in groupby(store.list("runs/"), key=lambda stat: stat.key.split("/")[1]):
        stats = list(grouped)
        names = {stat.key.removeprefix(f"runs/{run}/") for stat in stats}
        if "plan.json" not in names or names & {"release.json", "unchanged.json"}:
            continue
        age = now - max(stat.modified for stat in stats)
        if age > FORGOTTEN:
            continue
        plan = Plan.from_bytes(store.read(f"runs/{run}/plan.json"))
        done = {
            name.removeprefix("steps/").removesuffix(".json") for name in names if name.startswith("steps/")
        }
        if plan.release is None and done >= {step.name for step in plan.steps}:
            continue
        yield from _budget(store, plan)
        failed = any(
            stat.key.startswith(f"runs/{run}/failures/") and not _newer(stats, stat) for stat in stats
        )
        if age > limits.stale and not failed:
            left = [step.name for step in plan.steps if step.name not in done]
            yield Finding(
                "run",
                run,
                f"has written nothing for {_hours(age)}, {len(done)} of {len(plan.steps)} steps done"
                f"{f', next {left[0]}' if left else ', not registered'}",
                "look at its task in Airflow; clear it to resume from the last checkpoint",
            )


def _newer(stats: list[Stat], failure: Stat) -> bool:
    """Whether anything was written after a failure: then the run went on."""
    return any(stat.modified > failure.modified and "/logs/" not in stat.key for stat in stats)


def _budget(store: Store, plan: Plan) -> Iterator[Finding]:
    """A run that has used up most of its budget, the plan's or what it was raised to, in hours or money."""
    limit = limit_of(store, plan)
    if limit is None:
        return
    taken = spent_by(store, plan)
    near = [
        f"{spent:.2f} of {most:g} {unit}"
        for spent, most, unit in (
            (taken.device_hours, limit.device_hours, "device hours"),
            (taken.cost, limit.cost, plan.currency),
        )
        if spent is not None and most is not None and spent >= NEAR * most
    ]
    if near:
        yield Finding(
            "budget",
            plan.run,
            f"has used {' and '.join(near)}",
            "it stops at the limit with everything kept; give it another budget to let it go on",
        )


def _disks(settings: Settings, store: Store, limits: Limits) -> Iterator[Finding]:
    """Disks with too little room, each once."""
    places = {"scratch": settings.home, "the store": store.local_path("runs")}
    seen: set[int] = set()
    for name, place in places.items():
        if place is None:
            continue
        there = next(each for each in (place, *place.parents) if each.exists())
        device = there.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(there).free
        if free < limits.free_bytes:
            yield Finding(
                "disk",
                str(Path(there)),
                f"the disk of {name} has {free / 1e9:.1f} GB left",
                "perennial gc says what can go; scratch of steps that ended is under PERENNIAL_HOME/work",
            )


def _hours(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
