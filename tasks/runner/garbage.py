"""`perennial gc`: what no plan, version or ledger line refers to, said first and removed on request."""

from __future__ import annotations

import datetime
import re

from rich.console import Console
from rich.filesize import decimal

from tasks.artefacts import open_store
from tasks.artefacts.gc import apply_gc, find_roots, plan_gc
from tasks.runner.settings import Settings
from tasks.tracking import registry

DIGEST = re.compile(r"[0-9a-f]{64}")


def collect(settings: Settings, *, older_than: datetime.timedelta, apply: bool) -> None:
    """Print what could be removed, and remove it where `apply` says so.

    Args:
        settings: Where the store and MLflow are.
        older_than: Younger objects always stay, since a run may be about to refer to them.
        apply: Remove what was printed.
    """
    store = open_store(settings.store)
    registered = {
        digest
        for model in registry.models()
        for version in registry.versions(model)
        for value in (version.source, *version.tags.values())
        for digest in DIGEST.findall(value)
    }
    roots = find_roots(store, registered)
    removals = plan_gc(store, set(roots.digests), set(roots.fingerprints), older_than)
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
        console.print(f"would remove {decimal(total)}; remove it with: perennial gc --apply")
