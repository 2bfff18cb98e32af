"""Order of the slow tests in `make test`: the files that take longest come first.

Loaded with `-p tests.longest_first`. A worker takes whole files (`--dist loadfile`), so one that begins late
with a long file runs alone at the end. The order is all that depends on this table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
LONGEST = (
    "faults/test_random_kills.py",
    "browser/test_three_updates.py",
    "browser/test_real_run.py",
    "integration/test_release_postgres.py",
    "integration/test_main_job.py",
    "browser/test_model_page.py",
    "integration/test_evidence_run.py",
    "browser/test_airflow_ui.py",
    "unit/training/test_invariance.py",
    "unit/training/test_fit.py",
    "faults/test_airflow_kill.py",
    "faults/test_kill_step.py",
    "claims/test_preferences.py",
    "integration/test_mlflow_deployment.py",
    "integration/test_ranks_of_a_step.py",
    "integration/test_deepspeed_processes.py",
    "integration/test_airflow_runs.py",
    "integration/test_kubernetes_airflow.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the files of the table to the front; the others keep their order."""
    place = {FOLDER / name: number for number, name in enumerate(LONGEST)}
    gone = [str(path) for path in place if not path.exists()]
    assert not gone, f"LONGEST names files that are not there: {gone}"
    items.sort(key=lambda item: place.get(item.path, len(place)))
