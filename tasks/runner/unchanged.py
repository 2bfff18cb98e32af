"""A run that found nothing new: it ends as "no change", with what shows that there was nothing to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.artefacts import Store
from tasks.recipe.plan import Plan
from tasks.runner.records import StepRecord
from tasks.tracking import ledger
from tasks.tracking.registry import VersionInfo


def evidence(
    plan: Plan, store: Store, champion: VersionInfo, records: Mapping[str, StepRecord]
) -> dict[str, Any]:
    """Why a run has nothing to do.

    Returns:
        `model`; `champion` (its version), `semantic`, `digest`, `report` (digests of model and evidence);
        `since`: who promoted it, when and why, or None; `data`: name -> digest, and rows or slices where
        they are known; `steps`: name -> the run that made its result; `text`: all of it in words, Markdown.
    """
    moves = [
        line
        for line in ledger.history(store, plan.model)
        if line.action in ("promote", "rollback") and line.to_version == champion.version
    ]
    last = moves[-1] if moves else None
    found: dict[str, Any] = {
        "model": plan.model,
        "champion": champion.version,
        "semantic": champion.semantic,
        "digest": champion.digest,
        "report": champion.tags.get("perennial.report", ""),
        "since": {"by": last.actor, "time": last.time, "reason": last.reason} if last else None,
        "data": {
            name: {"digest": pin.digest}
            | {key: pin.meta[key] for key in ("rows", "slices") if key in pin.meta}
            for name, pin in plan.data.items()
        },
        "steps": {name: record.run for name, record in records.items()},
    }
    return {**found, "text": _text(plan, found)}


def write(plan: Plan, store: Store, found: Mapping[str, Any]) -> None:
    """Keep it where every reader of the run looks: `unchanged.json`, and `summary.md` in words."""
    store.write(f"runs/{plan.run}/summary.md", str(found["text"]).encode())
    store.write(f"runs/{plan.run}/unchanged.json", json.dumps(found, sort_keys=True, indent=1).encode())


def _text(plan: Plan, found: Mapping[str, Any]) -> str:
    since = found["since"]
    stays = f"version {found['champion']} ({found['semantic']}) stays in production"
    if since:
        stays += f", where {since['by']} put it on {since['time'][:10]}: {since['reason']}"
    lines = [
        f"# {plan.model}: no change",
        "",
        f"{stays}.",
        "",
        f"- every one of the {len(found['steps'])} steps is a hit: nothing of data, options, code or start "
        "models changed",
        f"- its model `{found['digest'][:12]}` is whole, on evidence `{found['report'][:12]}`",
        "",
        "| data | digest | rows |",
        "|---|---|---|",
        *(
            f"| {name} | `{each['digest'][:12]}` | {each.get('rows', '')} |"
            for name, each in found["data"].items()
        ),
        "",
    ]
    return "\n".join(lines)
