"""Is the champion still the one that a candidate was judged against? Evidence says nothing of a newer one.

A backfill, a run by hand or a question that was open for days may end after another version went into
production. Its candidate is better than a champion that is no longer there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.artefacts import Store
from tasks.release.whole import whole_digest
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo


@dataclass(frozen=True)
class Judged:
    """What was in production when a candidate was judged: its digest, None where there was no champion."""

    digest: str | None


def judged_against(store: Store, version: VersionInfo) -> Judged | None:
    """The champion that a version's evidence compares it with; None where its run is no longer on record.

    Where the recipe's report has no `champion` to compare with, it is the one at the time of the verdict.
    """
    run = version.tags.get("perennial.run", "")
    if not run:
        return None
    if store.stat(f"runs/{run}/plan.json") is not None:
        bindings = json.loads(store.read(f"runs/{run}/plan.json")).get("bindings", {})
        if "champion" in bindings:
            bound = bindings["champion"]
            return Judged(_version_digest(version.name, bound["digest"]) if bound else None)
    if store.stat(f"runs/{run}/release.json") is None:
        return None
    number = json.loads(store.read(f"runs/{run}/release.json"))["champion"]
    if number is None:
        return Judged(None)
    found = registry.find_version(version.name, number)
    return Judged(found.digest) if found else None


def between(store: Store, version: VersionInfo) -> str:
    """What came between a version's evidence and now, in words; "" for the champion, or where nothing did."""
    champion = registry.find_version(version.name, "champion")
    if champion is None or champion.version == version.version:
        return ""
    lines = ledger.history(store, version.name)
    return overtaken(judged_against(store, version), champion.version, champion.digest, lines)


def _version_digest(model: str, bound: str) -> str:
    """The digest of the version that a bound model is; of an adapter, the whole model was bound."""
    return next((each.digest for each in registry.versions(model) if whole_digest(each) == bound), bound)


def overtaken(
    judged: Judged | None, champion: str | None, digest: str | None, lines: Sequence[ledger.Line]
) -> str:
    """What came between the evidence and now, in words; "" where nothing did, or nothing is known of it.

    Args:
        judged: What the candidate was judged against.
        champion: The version in production now.
        digest: Its model's digest.
        lines: The ledger.
    """
    if judged is None or champion is None or judged.digest == digest:
        return ""
    was = "there was nothing in production"
    since = 0
    for number, line in enumerate(lines):
        if line.action in ("promote", "rollback") and line.to_digest == judged.digest:
            was = f"version {line.to_version} was in production"
            since = number + 1
        elif line.action in ("promote", "rollback") and line.from_digest == judged.digest and judged.digest:
            was = f"version {line.from_version} was in production"
            since = number
    if judged.digest is not None and was.startswith("there"):
        was = f"model {judged.digest[:12]} was in production"
    moves = [
        f"version {line.to_version} ({line.action} by {line.actor} on {line.time[:16]}: {line.reason})"
        for line in lines[since:]
        if line.action in ("promote", "rollback")
    ]
    then = f"; since then: {', '.join(moves)}" if moves else ""
    return f"it was judged when {was}, and now version {champion} is{then}"
