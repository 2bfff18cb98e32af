"""The smoke test as tasks: where a recipe asks for one, in a step's image, never after a rejection."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException
from runtimes.container import ContainerOperator
from runtimes.container_request import arguments as container_arguments
from runtimes.failures import CommandFailed, StepFailed
from runtimes.kubernetes import KubernetesStepOperator
from runtimes.process import ProcessOperator
from runtimes.steps import StepTask, conclude
from runtimes.table import make_step
from shared.recipes import read
from shared.smoke import after_task, check_task

from tasks.recipe.failures import Failure
from tests.local_servers import web_server
from tests.unit.dags.test_approval import NO, YES, YES_TOO

ROOT = Path(__file__).resolve().parents[3]
PLAN = "s3://bucket/store/runs/small-manual__1/plan.json"


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's recipe, which has a smoke test, as `small`, with other rules of approval."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    monkeypatch.setenv("PERENNIAL_RECIPES", str(folder))
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    monkeypatch.delenv("PERENNIAL_RUNTIME", raising=False)
    return folder


def dag_of(folder: Path, rules: str = "  approval: human\n") -> DAG:
    """The DAG of the demo's recipe with other rules of approval."""
    text = (ROOT / "recipes" / "pydocs.yaml").read_text().replace("recipe: pydocs", "recipe: small")
    text = text.replace("  approval: human\n", rules)
    (folder / "small.yaml").write_text(text)
    bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    found: Any = bag.dags["train__small"]
    return found  # type: ignore[no-any-return]


def order(dag: DAG) -> list[str]:
    """The tasks after the steps, in their order; a line without a branch."""
    at, found = "register", ["register"]
    while after := dag.get_task(at).downstream_task_ids:
        (at,) = after
        found.append(at)
    return found


@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        ("  approval: human\n", ["approve"]),
        ("  approval: human\n  approvals: 2\n", ["approve", "approve_second"]),
        ("  approval: none\n", []),
    ],
)
def test_the_answer_is_recorded_before_anybody_is_asked_and_compared_after(
    rules: str, asked: list[str], recipes: Path
) -> None:
    dag = dag_of(recipes, rules)
    assert order(dag) == ["register", "smoke_record", *asked, "smoke", "promote", "smoke_after"]
    # A rejection skips the test and whoever would be asked next; the promote task still writes it down.
    assert dag.get_task("smoke").trigger_rule == "none_failed"
    assert dag.get_task("promote").trigger_rule == "none_failed"
    assert dag.get_task("smoke_record").trigger_rule == "all_success"
    assert dag.get_task("smoke_after").trigger_rule == "all_success"  # what was not promoted is not tested


def test_its_tasks_are_about_the_runs_own_candidate(recipes: Path) -> None:
    dag = dag_of(recipes)
    ti = SimpleNamespace(xcom_pull=lambda task_ids: YES)
    context = {"run_id": "manual__1", "ti": ti, "params": {}}
    for name, more in (
        ("smoke_record", ["--record", "--if-missing"]),
        ("smoke", []),
        ("smoke_after", ["--after"]),
    ):
        task: Any = dag.get_task(name)
        assert isinstance(task, ProcessOperator)
        assert task.commands(context) == [["smoke", "--plan", PLAN, *more]]


def test_the_promote_dag_has_it_where_there_are_machines_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERENNIAL_RUNTIME", raising=False)
    dag: Any = DagBag(str(ROOT / "dags")).dags["promote"]
    assert dag.get_task("promote").upstream_task_ids == {"smoke"}
    assert dag.get_task("smoke").upstream_task_ids == {"approve_second"}
    assert dag.get_task("smoke_after").upstream_task_ids == {"promote"}
    monkeypatch.setenv("PERENNIAL_RUNTIME", "gpu=process")
    dag = DagBag(str(ROOT / "dags")).dags["promote"]
    assert dag.get_task("promote").upstream_task_ids == {"approve_second"}
    assert dag.get_task("promote").downstream_task_ids == set()


@pytest.mark.parametrize(("name", "model"), [("train__small", "pydocs"), ("promote", "other")])
def test_a_failure_after_the_promotion_is_told_with_how_to_take_it_back(
    name: str, model: str, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag_of(recipes)
    task: Any = DagBag(str(ROOT / "dags")).dags[name].get_task("smoke_after")
    (notice,) = task.on_failure_callback
    ti = SimpleNamespace(dag_id=name, task_id="smoke_after", run_id="manual__1")
    with web_server() as (url, posts):
        monkeypatch.setenv("AIRFLOW_CONN_PAGER", json.dumps({"conn_type": "http", "host": url}))
        monkeypatch.setenv("PERENNIAL_NOTIFY", "webhook:pager")
        notice({"ti": ti, "params": {"model": "other"}, "exception": CommandFailed("perennial smoke", 3)})
    ((_, body),) = posts
    told = json.loads(body)
    assert told["event"] == "failure.data_invalid"
    assert f"take it back with `perennial rollback {model} --by YOU" in told["lines"][-1]


def test_a_recipe_with_one_needs_machines_for_it(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dag_of(recipes)
    monkeypatch.setenv("PERENNIAL_RUNTIME", "gpu=process")
    (problem,) = read(recipes).problems.values()
    assert "release.smoke: PERENNIAL_RUNTIME (gpu=process) names no runtime" in problem


def test_no_step_has_the_name_of_a_task_of_every_dag(recipes: Path) -> None:
    text = (ROOT / "recipes" / "pydocs.yaml").read_text()
    (recipes / "wrong.yaml").write_text(text.replace("adapted", "smoke"))
    (problem,) = read(recipes).problems.values()
    assert "steps.smoke: 'smoke' is a task of every DAG; give the step another name" in problem


def checked(answers: dict[str, Any], wanted: bool = True) -> list[str]:
    """What the test would run after these answers."""
    with DAG(dag_id="d", schedule=None):
        task: Any = check_task("r", "m", "o", lambda _: ["smoke", "m", "3"], tuple(answers), lambda _: wanted)
    ti = SimpleNamespace(xcom_pull=lambda task_ids: answers[task_ids])
    (command,) = task.commands({"run_id": "manual__1", "ti": ti})
    found: list[str] = command
    return found


def test_it_runs_only_on_the_way_to_a_promotion() -> None:
    assert checked({"approve": YES, "approve_second": YES_TOO}) == ["smoke", "m", "3"]
    assert checked({"approve": YES, "approve_second": None}) == ["smoke", "m", "3"]  # one is enough
    assert checked({}) == ["smoke", "m", "3"]  # the gates alone decide
    for no in ({"approve": NO}, {"approve": None}, {"approve": YES, "approve_second": NO}):
        with pytest.raises(AirflowSkipException, match="no approval"):
            checked(no)
    with pytest.raises(AirflowSkipException, match="asks for no smoke test"):
        checked({"approve": YES}, wanted=False)


def test_nothing_is_tested_after_the_promotion_of_a_version_without_a_test() -> None:
    with DAG(dag_id="d", schedule=None):
        task: Any = after_task("r", "m", "o", lambda _: ["smoke", "m", "3", "--after"], "m", lambda _: False)
    with pytest.raises(AirflowSkipException, match="asks for no smoke test"):
        task.commands({"run_id": "manual__1"})


COMMAND = StepTask(
    *("smoke", "promote", "any", "perennial", "release", "cpu", "doc"),
    command=lambda context: ["smoke", context["params"]["model"], "3"],
)
CONTEXT = {"run_id": "manual__1", "params": {"model": "pydocs"}}


def test_a_command_runs_in_the_image_of_the_steps_that_do_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    monkeypatch.setenv("PERENNIAL_IMAGE_CPU", "registry/cpu@sha256:1")
    task = COMMAND.filled_in(CONTEXT)
    given = container_arguments(task, "manual__1", "attempt-1")
    assert given["command"] == ["smoke", "pydocs", "3"]
    assert given["image"] == "registry/cpu@sha256:1"
    assert given["name"].endswith("-promote-manual__1-smoke")


@pytest.mark.parametrize(
    ("runtime", "kind"),
    [
        ("process", ProcessOperator),
        ("container", ContainerOperator),
        ("kubernetes", KubernetesStepOperator),
        ("trainjob", KubernetesStepOperator),  # one pod, although steps are jobs of several
    ],
)
def test_every_runtime_has_it(runtime: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_RUNTIME", runtime)
    assert type(make_step(COMMAND)) is kind


def test_what_the_runtime_saw_decides_since_a_command_leaves_no_record() -> None:
    conclude(COMMAND, "manual__1", "attempt-1", None, "exit code 0")  # would raise if it asked the store
    with pytest.raises(StepFailed, match="exit code 3") as caught:
        conclude(COMMAND, "manual__1", "attempt-1", Failure.DATA_INVALID, "exit code 3")
    assert caught.value.failure is Failure.DATA_INVALID
