"""The DAG files: they load, mirror the recipes, are documented, and give the same bytes every time."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from shared.recipes import needs, read

from tasks.local.demo import after_the_steps

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "transformers", "deepspeed", "mlflow", "great_expectations", "pandas", "peft")

OWN = {"promote", "rollback", "evaluate", "compare", "retention", "watchdog"}

SERIALISE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
data = {name: DagSerialization.to_dict(dag) for name, dag in sorted(bag.dags.items())}
heavy = sorted(set(sys.argv[2].split(",")) & set(sys.modules))
print("RESULT", json.dumps({"dags": data, "heavy": heavy}))
"""


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(str(ROOT / "dags"))


def dag_of(bag: DagBag, name: str) -> DAG:
    found: Any = bag.dags[name]
    return found  # type: ignore[no-any-return]


def test_every_file_loads(bag: DagBag) -> None:
    assert bag.import_errors == {}
    names = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    watched = {f"watch__{path.stem}" for path in (ROOT / "recipes" / "corpora").glob("*.yaml")}
    assert {f"train__{name}" for name in names} | watched | OWN == set(bag.dags)


@pytest.mark.parametrize("found", read(ROOT / "recipes").good, ids=lambda found: str(found.recipe.recipe))
def test_the_dag_is_the_recipes_graph(bag: DagBag, found: Any) -> None:
    dag = dag_of(bag, f"train__{found.recipe.recipe}")
    for name, reads in needs(found.recipe).items():
        assert dag.get_task(name).upstream_task_ids == set(reads or ["plan"])
    release = after_the_steps(found.recipe)
    assert release == ["register", "smoke_record", "approve", "smoke", "promote", "smoke_after"]
    assert {task.task_id for task in dag.tasks} == {"plan", *found.recipe.steps, *release}
    for before, after in itertools.pairwise(release):
        assert dag.get_task(after).upstream_task_ids == {before}
    steps = set(found.recipe.steps)
    assert dag.get_task("register").get_flat_relative_ids(upstream=True) >= steps


def test_the_demos_graph_reads_as_designed(bag: DagBag) -> None:
    dag = dag_of(bag, "train__pydocs")
    assert dag.get_task("adapted").upstream_task_ids == {"base", "shards"}
    assert dag.get_task("merged").upstream_task_ids == {"tuned", "aligned", "adapted"}
    assert dag.get_task("checked").upstream_task_ids == {"plan"}


def test_dags_are_documented_and_run_one_at_a_time(bag: DagBag) -> None:
    for dag in (dag_of(bag, name) for name in bag.dags):
        assert dag.doc_md
        assert dag.description
        assert dag.tags
        # Questions wait for people: those about one model must not hold up the others.
        assert dag.max_active_runs == (16 if dag.dag_id == "promote" else 1)
        assert dag.catchup is False
        for task in dag.tasks:
            assert task.doc_md, task.task_id
            assert task.owner == "perennial"


def test_airflow_passes_no_data_between_tasks_but_the_answer_of_a_person(bag: DagBag) -> None:
    for dag in (dag_of(bag, name) for name in bag.dags):
        assert {task.task_id for task in dag.tasks if vars(task)["do_xcom_push"]} <= {
            "approve",
            "approve_second",
        }


def test_pools_are_the_ones_that_exist(bag: DagBag) -> None:
    for dag in (dag_of(bag, name) for name in bag.dags):
        assert {task.pool for task in dag.tasks} <= {"default_pool", "gpu"}


def test_p19_approvals_default_to_reject_and_time_out_as_responses(bag: DagBag) -> None:
    for name, task in (("train__pydocs", "approve"), ("promote", "approve"), ("promote", "approve_second")):
        ask: Any = dag_of(bag, name).get_task(task)
        assert ask.defaults == ["Reject"]
        assert ask.response_timeout is not None
        assert ask.execution_timeout is None


def test_the_form_has_the_recipes_fields_in_their_order(bag: DagBag) -> None:
    params = dag_of(bag, "train__pydocs").params
    fields = [
        "adapted__lr",
        "adapted__epochs",
        "shards__replay",
        "tuned__lr",
        "aligned__beta",
        "merged__weight",
    ]
    assert list(params) == ["reason", *fields, "refresh", "overrides", "from_run", "from_step"]
    for name in fields:
        assert params.get_param(name).description, name


def serialise(seed: str, home: Path) -> dict[str, Any]:
    env = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags")]),
    }
    command = [sys.executable, "-c", SERIALISE, str(ROOT / "dags"), ",".join(HEAVY)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found: dict[str, Any] = json.loads(last.removeprefix("RESULT "))
    return found


@pytest.mark.slow
def test_serialisation_is_stable_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    one, other = serialise("1", tmp_path / "one"), serialise("2", tmp_path / "two")
    assert one["dags"] == other["dags"]
    assert one["heavy"] == []


def test_files_parse_quickly(bag: DagBag, record_property: Any) -> None:
    for stat in bag.dagbag_stats:
        record_property(f"seconds to parse {stat.file}", stat.duration.total_seconds())
    assert {Path(stat.file).name for stat in bag.dagbag_stats} >= {"train.py", "promote.py", "rollback.py"}
