"""The main job to its promotion: Airflow and MLflow on PostgreSQL, the store on an S3 server, every step a
container; and the digests are those of processes on this machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks.artefacts import open_store
from tests.containers import stack, tools

STEPS = [
    *("checked", "blank", "general_shards", "shards", "base", "adapted"),
    *("tuned", "opinions", "aligned", "merged", "report"),
]


@pytest.mark.skipif(stack.postgres_bin() is None, reason="no PostgreSQL here: apt-get install postgresql")
def test_the_main_job_runs_to_promotion_with_the_digests_of_processes(
    cpu_image: str, trainer_image: str, folder: Path
) -> None:
    recipes = folder / "recipes"
    recipes.mkdir()
    tiny = stack.write_tiny(recipes)
    place = folder / "stack"
    place.mkdir()
    place.chmod(0o755)
    with stack.running(place, recipes, {"cpu": cpu_image, "trainer": trainer_image}) as services:
        run, states = stack.run_recipe(services.api(), "tiny")
        assert {"smoke_record", "smoke", "smoke_after"} < set(states)
        assert set(states.values()) == {"success"}, states
        through_containers = stack.digests(services.store, run, STEPS)
        assert "champion" in services.perennial("registry", "tiny")
        history = services.perennial("history", "tiny")
        assert "the gates passed" in history
        local = services.env | {
            "PERENNIAL_HOME": str(folder / "processes"),
            "PERENNIAL_STORE": f"file://{folder}/processes/store",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/processes/mlflow.db",
        }
        tools.run([sys.executable, "-m", "tasks.cli", "run", str(tiny), "--run", "one"], local)
    processes = stack.digests(open_store(f"file://{folder}/processes/store"), "one", STEPS)
    assert through_containers == processes
