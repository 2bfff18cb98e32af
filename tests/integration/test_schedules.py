"""What Airflow's own scheduler makes of a recipe's schedule: one more run for new data, none beside another.

The scheduler's loop is asked for new runs on a real database; no task is started.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.airflow_runs import RECIPE, ROOT, migrated_database

pytestmark = pytest.mark.slow

PROGRAM = """
import json
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.assets.manager import asset_manager
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.asset import AssetModel
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.settings import DAGS_FOLDER
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import DagRunState
from sqlalchemy import select

bag = DagBag(DAGS_FOLDER)
assert not bag.import_errors, bag.import_errors
with create_session() as session:
    session.add(DagBundleModel(name="dags-folder"))
sync_bag_to_db(bag, "dags-folder", None)
with create_session() as session:
    for dag in session.scalars(select(DagModel)):
        dag.is_paused = dag.dag_id != "train__tiny"
runner = SchedulerJobRunner(job=Job(), num_runs=1, executors=[])


def arrives(slice_):
    with create_session() as session:
        asset = session.scalar(select(AssetModel).where(AssetModel.name == "corpus/tiny"))
        asset_manager.register_asset_change(asset=asset, extra={"date": slice_}, session=session)


def loop():
    for _ in range(3):
        with create_session() as session, prohibit_commit(session) as guard:
            runner._create_dagruns_for_dags(guard, session)
            guard.commit()


def runs():
    with create_session() as session:
        found = session.scalars(select(DagRun).order_by(DagRun.id)).all()
        return [
            {"state": str(run.state), "type": str(run.run_type),
             "dates": sorted(event.extra["date"] for event in run.consumed_asset_events)}
            for run in found
        ]


def ended(state):
    with create_session() as session:
        for run in session.scalars(select(DagRun).where(DagRun.state != DagRunState.SUCCESS)):
            run.state = state
        session.flush()
        model = session.scalar(select(DagModel).where(DagModel.dag_id == "train__tiny"))
        runner._set_exceeds_max_active_runs(dag_model=model, session=session)


told = {}
loop()
told["nothing new"] = runs()
arrives("2026-01-05")
loop()
told["the first slice"] = runs()
ended(DagRunState.RUNNING)
for date in ("2026-01-12", "2026-01-19", "2026-01-26"):
    arrives(date)
    loop()
told["three more while it runs"] = runs()
ended(DagRunState.SUCCESS)
loop()
told["it has ended"] = runs()
ended(DagRunState.SUCCESS)
loop()
told["the second has ended too"] = runs()
print("RESULT " + json.dumps(told))
"""


@pytest.mark.parametrize("schedule", ["on: [corpus/tiny]", 'on: [corpus/tiny], cron: "0 3 1 1 *"'])
def test_p16_new_data_during_a_run_starts_exactly_one_more(tmp_path: Path, schedule: str) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "tiny.yaml").write_text(f"schedule: {{{schedule}}}\n{RECIPE.read_text()}")
    shutil.copy(migrated_database(), tmp_path / "airflow.db")
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags")]),
        "PERENNIAL_RECIPES": str(recipes),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert "RESULT " in done.stdout, done.stdout + done.stderr
    told: dict[str, list[dict[str, Any]]] = json.loads(done.stdout.rpartition("RESULT ")[2])
    assert told["nothing new"] == []
    assert [run["dates"] for run in told["the first slice"]] == [["2026-01-05"]]
    assert len(told["three more while it runs"]) == 1
    # Airflow names the events until the run was queued; it starts later, and its plan reads every slice.
    assert [run["dates"] for run in told["it has ended"]] == [["2026-01-05"], ["2026-01-12"]]
    assert len(told["the second has ended too"]) == 2
    assert {run["type"] for run in told["it has ended"]} == {"asset_triggered"}
