"""Where model cards are kept: `cards/<sha256>.md` in the store, named by a version's tag `perennial.card`.

A card is named by its own digest and the tag is part of what is signed, so a changed card is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.artefacts import ObjectMissing, Store, fetch, load_manifest
from tasks.recipe.catalogue import Catalogue
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.release import signature
from tasks.release.card import card
from tasks.release.gates import GateResult
from tasks.release.records import PlanFacts, Report, StepRecord, read_report
from tasks.tracking import registry
from tasks.tracking.registry import VersionInfo

TAG = "perennial.card"


def write_card(
    store: Store,
    plan: PlanFacts,
    records: Mapping[str, StepRecord],
    report: Report,
    gates: list[GateResult],
    *,
    semantic: str,
    change: str,
    source: str,
) -> tuple[str, str]:
    """Write a card from the facts of a run and keep it.

    Returns:
        Its digest, and its text.
    """
    text = card(
        plan,
        records,
        report,
        gates,
        semantic=semantic,
        change=change,
        source=source,
        dates={name: _date(store, data.digest, data.meta) for name, data in plan.data.items()},
        catalogue=Catalogue.load(),
    )
    return keep(store, text), text


def keep(store: Store, text: str) -> str:
    """Keep a card; its digest."""
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    store.write(_key(digest), data)
    return digest


def read_card(store: Store, version: VersionInfo) -> str:
    """The card of a version, verified.

    Raises:
        ConfigInvalid: It has none.
        DataInvalid: It is missing in the store, or altered.
    """
    digest = version.tags.get(TAG, "")
    called = f"version {version.version} of '{version.name}'"
    remedy = f"write it from its run's records: `perennial card {version.name} {version.version} --write`"
    if not digest:
        raise ConfigInvalid(f"{called} has no model card, and without one nothing is promoted; {remedy}")
    try:
        data = store.read(_key(digest))
    except ObjectMissing as error:
        raise DataInvalid(f"{called}: its card {store.locate(_key(digest))} is gone; {remedy}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataInvalid(f"{called}: its card {store.locate(_key(digest))} was altered; {remedy}")
    return data.decode()


def rewrite(store: Store, version: VersionInfo, cache: Path, by: str) -> str:
    """Give a version that has no sound card one, from what its run left in the store; the card's text.

    The version is signed anew, since the card is part of what is signed; it must be what was signed before.

    Args:
        store: Holds the run.
        version: The version.
        cache: For artefacts fetched from a remote store.
        by: Who says so.

    Raises:
        ConfigInvalid: It has a card already, or its run is no longer in the store.
        DataInvalid: What its run left is unreadable, or the version is not what was signed.
    """
    try:
        read_card(store, version)
    except (ConfigInvalid, DataInvalid):
        pass
    else:
        raise ConfigInvalid(
            f"version {version.version} of '{version.name}' has its card. What a card says follows from the "
            f"recipe and the evidence: change the recipe's text and run it, which gives a new version"
        )
    signed = signature.verify(store, version)
    run = version.tags.get("perennial.run", "")
    plan, records, gates = _facts(store, version, run)
    report = read_report(fetch(store, version.tags["perennial.report"], cache) / "report.json")
    digest, text = write_card(
        store,
        plan,
        records,
        report,
        gates,
        semantic=version.semantic,
        change=version.tags.get("perennial.version_reason", ""),
        source=version.source,
    )
    registry.tag_version(version.name, version.version, {TAG: digest})
    now = registry.version(version.name, version.version)
    signature.sign(store, now, by, plan=signed.statement.plan)
    return text


def _facts(
    store: Store, version: VersionInfo, run: str
) -> tuple[PlanFacts, dict[str, StepRecord], list[GateResult]]:
    """What a run left: its plan, its steps' records, its verdicts."""
    try:
        plan = PlanFacts.model_validate_json(store.read(f"runs/{run}/plan.json"))
        records = {
            step.name: StepRecord.model_validate_json(store.read(f"runs/{run}/steps/{step.name}.json"))
            for step in plan.steps
        }
        gates = json.loads(store.read(f"runs/{run}/gates.json"))["gates"]
        return plan, records, [GateResult(**each) for each in gates]
    except ObjectMissing as error:
        raise ConfigInvalid(
            f"version {version.version} of '{version.name}': no card can be written, since its run '{run}' "
            f"is not whole in {store.uri} ({error}); run its recipe again"
        ) from error
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise DataInvalid(
            f"{store.locate(f'runs/{run}')}: what the run left cannot be read: {error}; run its recipe again"
        ) from error


def _date(store: Store, digest: str, meta: Mapping[str, Any]) -> str:
    """The day of a data set's content where its source says so, else the day on which it was first read."""
    if meta.get("date"):
        return str(meta["date"])
    return f"read {load_manifest(store, digest).created.date().isoformat()}"


def _key(digest: str) -> str:
    return f"cards/{digest}.md"
