"""`perennial page`: all that one page about a model shows, as JSON; see dags/plugins for the page itself."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from tasks.artefacts import Store, load_manifest, open_store
from tasks.recipe.failures import ConfigInvalid, PerennialError
from tasks.release import promote as decisions
from tasks.release.approvals import required
from tasks.runner.settings import Settings
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo

GATE_FIELDS = (
    "gate", "measure", "verdict", "severity", "value", "low", "high", "threshold", "sign", "percent",
    "change", "unit", "items", "reason",
)  # fmt: skip
LINE_FIELDS = ("seq", "time", "action", "actor", "from_version", "to_version", "reason", "run", "evidence")


def models_page(settings: Settings) -> dict[str, Any]:
    """Every registered model of ours with its aliases, for the list."""
    found = []
    for model in registry.models():
        held = registry.aliases(model)
        found.append(
            {"model": model, **{alias: held.get(alias) for alias in ("champion", "candidate", "previous")}}
        )
    return {"time": _now(), "models": found, "mlflow": _address(settings)}


def model_page(settings: Settings, model: str) -> dict[str, Any]:
    """What there is to know about a model.

    Returns:
        `model`, `time`, `mlflow` (address or ""), `champion`, `candidate`, `previous` (version numbers or
        None), `versions` (newest first: version, semantic, aliases, digest, bytes, run, recipe, why,
        approvals, registered, device_hours, cost, currency, energy_kwh, gates), `history` (ledger lines,
        newest first), `bytes` (of all versions, what they share counted once), `problems` (in words).

    Raises:
        ConfigInvalid: MLflow does not know the model.
        Infrastructure: The store or MLflow is unreachable.
    """
    store = open_store(settings.store)
    versions = registry.versions(model)
    if not versions:
        raise ConfigInvalid(f"MLflow has no registered model '{model}' at {settings.tracking}")
    held = registry.aliases(model)
    try:
        lines = ledger.history(store, model)
        wrong = decisions.audit(store, model)
    except PerennialError as error:
        lines, wrong = [], [str(error)]
    registered = {line.to_version: line.time for line in reversed(lines) if line.action == "register"}
    sizes: dict[str, int | None] = {}
    for each in versions:
        if each.digest:
            sizes.setdefault(each.digest, _size(store, each.digest))
    wrong += [
        f"version {each.version}: its model {each.digest[:12]} is not in the store"
        for each in versions
        if each.digest and sizes[each.digest] is None
    ]
    return {
        "model": model,
        "time": _now(),
        "mlflow": _address(settings),
        **{alias: held.get(alias) for alias in ("champion", "candidate", "previous")},
        "versions": [
            {
                "version": each.version,
                "semantic": each.semantic,
                "aliases": sorted(alias for alias, number in held.items() if number == each.version),
                "digest": each.digest,
                "bytes": sizes.get(each.digest),
                "run": each.tags.get("perennial.run", ""),
                "recipe": each.tags.get("perennial.recipe", ""),
                "why": each.tags.get("perennial.version_reason", ""),
                "approvals": required(each.tags),
                "registered": registered.get(each.version),
                **_costs(store, each),
                "gates": _gates(store, each),
            }
            for each in reversed(versions)
        ],
        "history": [{name: getattr(line, name) for name in LINE_FIELDS} for line in reversed(lines)],
        "bytes": sum(size for size in sizes.values() if size is not None),
        "problems": wrong,
    }


def report_page(settings: Settings, run: str) -> bytes:
    """The report of a run, a page of HTML.

    Raises:
        ConfigInvalid: The run left none.
    """
    store = open_store(settings.store)
    key = f"runs/{run}/report.html"
    if "/" in run or run.startswith(".") or store.stat(key) is None:
        raise ConfigInvalid(f"run '{run}' has no report in {store.uri}")
    return store.read(key)


def _gates(store: Store, version: VersionInfo) -> list[dict[str, Any]]:
    """The verdicts with which a version was registered; none where its run is no longer in the store."""
    key = f"runs/{version.tags.get('perennial.run', '')}/release.json"
    if store.stat(key) is None:
        return []
    record = json.loads(store.read(key))
    return [{name: gate.get(name) for name in GATE_FIELDS} for gate in record.get("gates", [])]


def _costs(store: Store, version: VersionInfo) -> dict[str, float | str | None]:
    """Device hours, cost and energy by the version's tags; the hours else from the records of its run."""

    def figure(text: str) -> float | None:
        try:
            return float(text)
        except ValueError:
            return None

    hours = figure(version.tags.get("perennial.device_hours", ""))
    cost, _, currency = version.tags.get("perennial.cost", "").partition(" ")
    energy = figure(version.tags.get("perennial.energy_kwh", ""))
    run = version.tags.get("perennial.run", "")
    if hours is None and run:
        records = [
            json.loads(store.read(stat.key))
            for stat in store.list(f"runs/{run}/steps/")
            if stat.key.endswith(".json")
        ]
        hours = sum(float(each.get("device_seconds") or 0.0) for each in records) / 3600 if records else None
    return {"device_hours": hours, "cost": figure(cost), "currency": currency, "energy_kwh": energy}


def _size(store: Store, digest: str) -> int | None:
    try:
        return load_manifest(store, digest).size
    except PerennialError:
        return None


def _address(settings: Settings) -> str:
    address = (os.environ.get("PERENNIAL_MLFLOW_URL") or settings.tracking).rstrip("/")
    return address if address.startswith("http") else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
