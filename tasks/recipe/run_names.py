"""The name of a run in the store and in MLflow, from what Airflow calls it."""

from __future__ import annotations

import hashlib
import re

LONGEST = 160
"""Characters; a run's name is a folder, and 255 is the usual limit of a file system."""

_GENERATED = re.compile(r"[a-z_]+__\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00(_\w+)?")
"""The ids Airflow makes itself, all of one form, so dropping their colons cannot make two of them equal."""


def run_name(prefix: str, run_id: str) -> str:
    """The run's name: letters, digits, `_`, `.` and `-` only, different for different runs.

    Args:
        prefix: What the run belongs to (the recipe): two DAGs scheduled for one moment have one run id.
        run_id: Airflow's id, e.g. `manual__2026-11-21T12:29:26.123456+00:00`.
    """
    if _GENERATED.fullmatch(run_id):
        run_id = run_id.replace("+00:00", "Z").replace(":", "")
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)
    name = f"{prefix}-{plain}"
    if plain == run_id and len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def plan_uri(store_uri: str, run: str) -> str:
    """Where the plan of a run lies."""
    return f"{store_uri.rstrip('/')}/runs/{run}/plan.json"
