"""`perennial gc`: what no plan, version or ledger line refers to, said first and removed on request."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence, Set

from rich.console import Console
from rich.filesize import decimal

from tasks.artefacts import Store, open_store
from tasks.artefacts.gc import apply_gc, find_roots, plan_gc
from tasks.runner.settings import Settings
from tasks.tracking import registry
from tasks.tracking.registry import VersionInfo

DIGEST = re.compile(r"[0-9a-f]{64}")


VERSION_NEEDS = ("candidate", "report", "card", "base", "parents", "data.")
"""Tags (perennial.X) of a version whose artefacts stay while it is registered: what an audit asks for."""


def collect(
    settings: Settings,
    *,
    older_than: datetime.timedelta,
    runs_older_than: datetime.timedelta | None,
    apply: bool,
) -> None:
    """Print what could be removed, and remove it where `apply` says so.

    Args:
        settings: Where the store and MLflow are.
        older_than: Younger objects always stay, since a run may be about to refer to them.
        runs_older_than: Runs older than this keep only what their versions need (weights, report, data,
            parents), unless an alias is on one of them; None: every run keeps all that it made.
        apply: Remove what was printed.
    """
    store = open_store(settings.store)
    versions = [version for model in registry.models() for version in registry.versions(model)]
    all_roots = find_roots(store, _named(versions, set()))
    if runs_older_than is None:
        removals = plan_gc(store, all_roots.digests, all_roots.fingerprints, older_than)
    else:
        old = _old_runs(store, versions, runs_older_than)
        roots = find_roots(store, _named(versions, old), old)
        gone = all_roots.digests - roots.digests
        removals = plan_gc(store, roots.digests, roots.fingerprints, older_than, gone)
    console = Console()
    for removal in removals:
        console.print(
            f"{decimal(removal.bytes):>10}  {removal.key_prefix}  {removal.reason}",
            highlight=False,
            soft_wrap=True,
        )
    total = sum(removal.bytes for removal in removals)
    if not removals:
        console.print("nothing to remove")
    elif apply:
        console.print(f"removed {decimal(apply_gc(store, removals))}")
    else:
        console.print(f"would remove {decimal(total)}; remove it with: the same command and --apply")


def _old_runs(store: Store, versions: Sequence[VersionInfo], age: datetime.timedelta) -> set[str]:
    """The runs of which nothing was written for so long, and none of whose versions has an alias."""
    last: dict[str, datetime.datetime] = {}
    for stat in store.list("runs/"):
        run = stat.key.split("/")[1]
        last[run] = max(stat.modified, last.get(run, stat.modified))
    held = {(model, number) for model in registry.models() for number in registry.aliases(model).values()}
    used = {
        version.tags.get("perennial.run", "")
        for version in versions
        if (version.name, version.version) in held
    }
    before = datetime.datetime.now(datetime.UTC) - age
    return {run for run, time in last.items() if time < before} - used


def _named(versions: Sequence[VersionInfo], old: Set[str]) -> set[str]:
    """The digests that versions name; those of old runs only what they need themselves."""
    found: set[str] = set()
    for version in versions:
        needs = tuple(f"perennial.{part}" for part in VERSION_NEEDS)
        brief = version.tags.get("perennial.run", "") in old
        for tag, value in version.tags.items():
            if not brief or tag.startswith(needs):
                found.update(DIGEST.findall(value))
        found.update(DIGEST.findall(version.source))
    return found
