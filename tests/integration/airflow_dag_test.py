"""Runs DAGs with `dag.test()` in a process of its own, because Airflow reads its settings once, at import.

Reads one JSON object a line: `dag`, `conf` (the trigger form), `marked` (a pattern of tasks to mark as
successful instead of running them: an approval waits for the scheduler, which `dag.test()` has not), `store`.
Answers each with a line `RESULT {...}`: what became of the run and its tasks.

Retries come after a tenth of a second, not after the seconds of the rules, which are tested in
tests/unit/dags/test_failures.py; how often there is one is left to the rules.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models.dagbundle import DagBundleModel
from airflow.settings import DAGS_FOLDER
from airflow.utils.session import create_session


def main() -> None:
    bag = DagBag(DAGS_FOLDER)
    assert not bag.import_errors, bag.import_errors
    from runtimes import failures  # the DAGs' own, from their folder

    failures.RULES = {
        failure: replace(rule, delay=timedelta(seconds=0.1)) for failure, rule in failures.RULES.items()
    }
    failures.LONGEST_DELAY = timedelta(seconds=0.1)
    with create_session() as session:
        session.add(DagBundleModel(name="dags-folder"))
    sync_bag_to_db(bag, "dags-folder", None)
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ["PERENNIAL_STORE"] = f"file://{asked['store']}"
        hook = Path(asked["store"]) / "hook"  # where a test wants to be told
        if hook.exists():
            os.environ["AIRFLOW_CONN_HOOK"] = json.dumps({"conn_type": "http", "host": hook.read_text()})
            os.environ["PERENNIAL_NOTIFY"] = "webhook:hook"
        else:
            os.environ.pop("PERENNIAL_NOTIFY", None)
        run = bag.dags[asked["dag"]].test(
            run_conf=asked["conf"], mark_success_pattern=asked["marked"] or None, logical_date=None
        )
        tasks = {
            ti.task_id: {"state": str(ti.state), "tries": ti.try_number} for ti in run.get_task_instances()
        }
        print(
            "\nRESULT " + json.dumps({"state": str(run.state), "date": run.logical_date, "tasks": tasks}),
            flush=True,
        )


if __name__ == "__main__":
    main()
