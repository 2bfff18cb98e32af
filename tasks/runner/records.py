"""What is remembered of a step: its record by fingerprint, and the record of each run."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.artefacts import Store


class Output(BaseModel):
    """One artefact that a step made or handed on."""

    model_config = ConfigDict(extra="forbid")
    digest: str
    kind: str
    meta: dict[str, Any] = {}


class StepRecord(BaseModel):
    """The record of a finished step.

    Attributes:
        ingredients: Everything the fingerprint is the digest of.
        cached: In a run's record: the step was skipped because nothing had changed.
        reasons: Why the step ran, or what made it a hit.
        run: The run whose execution made the outputs.
        device_seconds: Seconds of devices over all attempts.
        attempts: How many times the step was started.
        image: The container image that it ran in (PERENNIAL_IMAGE), "" for a process of a machine.
        resources: The size of machine that it ran on.
        cost: What that cost, in the currency of the plan; None where it has no price.
        energy_kwh: An estimate of the energy; None where the power is not known.
    """

    model_config = ConfigDict(extra="forbid")
    fingerprint: str
    step: str
    stage: str
    method: str
    options: dict[str, Any]
    inputs: dict[str, list[str]]
    ingredients: dict[str, Any]
    outputs: dict[str, Output]
    metrics: dict[str, float]
    figure: str
    reasons: list[str]
    cached: bool = False
    run: str
    started: str
    finished: str
    device_seconds: float
    attempts: int = 1
    image: str = ""
    resources: str = ""
    cost: float | None = None
    energy_kwh: float | None = None
    mlflow_run: str | None = None


def record_key(fingerprint: str) -> str:
    """Key of the record that proves a cache hit."""
    return f"records/{fingerprint}.json"


def latest_key(recipe: str, step: str) -> str:
    """Key of the last record of a recipe's step, which says why a new fingerprint differs."""
    return f"latest/{recipe}/{step}.json"


def run_key(run: str, step: str) -> str:
    """Key of a step's record in one run."""
    return f"runs/{run}/steps/{step}.json"


def write_record(store: Store, key: str, record: StepRecord) -> None:
    """Write a record; atomic."""
    store.write(key, json.dumps(record.model_dump(), sort_keys=True, indent=1).encode())


def read_record(store: Store, key: str) -> StepRecord | None:
    """Read a record; None where there is none."""
    if store.stat(key) is None:
        return None
    return StepRecord.model_validate_json(store.read(key))
