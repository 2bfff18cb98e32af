"""Whole runs of a DAG under Airflow's own task runner, with a stand-in for the steps' work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
RECIPE = ROOT / "tests" / "recipes" / "tiny.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process with Airflow, a database and two recipes, which runs DAGs on request."""
    folder = tmp_path_factory.mktemp("airflow")
    recipes = folder / "recipes"
    recipes.mkdir()
    text = RECIPE.read_text()
    (recipes / "tiny.yaml").write_text(text)
    policy = text.replace("recipe: tiny", "recipe: policy").replace("approval: human", "approval: none")
    (recipes / "policy.yaml").write_text(policy)
    env = os.environ | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags")]),
        "PERENNIAL_COMMAND": f"{sys.executable} {HERE / 'fake_perennial.py'}",
        "PERENNIAL_HOME": str(folder / "home"),
        "PERENNIAL_RECIPES": str(recipes),
    }
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(migrate, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (folder / "errors.log").open("w") as errors:
        command = [sys.executable, str(HERE / "airflow_dag_test.py")]
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        yield process
        process.communicate()


class Runs:
    """Runs with a store of their own."""

    def __init__(self, worker: subprocess.Popen[str], store: Path) -> None:
        self.worker = worker
        self.store = store

    def run(
        self,
        behaviour: Mapping[str, list[int]],
        conf: Mapping[str, Any] | None = None,
        marked: str = "approve",
        recipe: str = "tiny",
    ) -> dict[str, Any]:
        """Run a recipe's DAG to its end."""
        (self.store / "behaviour.json").write_text(json.dumps(behaviour))
        asked = {"dag": f"train__{recipe}", "conf": conf or {}, "marked": marked, "store": str(self.store)}
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        self.worker.stdin.write(json.dumps(asked) + "\n")
        self.worker.stdin.flush()
        said: list[str] = []
        for line in self.worker.stdout:
            if line.startswith("RESULT "):
                found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                return found
            said.append(line)
        raise AssertionError("the worker ended:\n" + "".join(said[-50:]))

    def calls(self) -> list[dict[str, Any]]:
        """The commands that were run, in order."""
        file = self.store / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def runs(tmp_path: Path, worker: subprocess.Popen[str]) -> Runs:
    return Runs(worker, tmp_path)


def states(run: dict[str, Any]) -> dict[str, str]:
    return {name: task["state"] for name, task in run["tasks"].items()}


def test_a_run_goes_through_the_graph_and_promotes_nothing_without_an_answer(runs: Runs) -> None:
    run = runs.run({}, {"merged__weight": 0.3, "refresh": "report", "reason": "a try"})
    assert run["state"] == "success"
    assert states(run)["report"] == "success"
    assert states(run)["promote"] == "skipped"
    calls = runs.calls()
    plan = calls[0]
    assert (plan["command"], plan["freeze"]) == ("plan", True)
    assert plan["set"] == ["steps.merged.options.weight=0.3"]
    assert plan["refresh"] == ["report"]
    what = [call["what"] for call in calls]
    for before, after in (
        ("blank", "base"),
        ("base", "adapted"),
        ("tuned", "aligned"),
        ("report", "register"),
    ):
        assert what.index(before) < what.index(after)
    uri = f"file://{runs.store}/runs/{plan['run']}/plan.json"
    assert {call["plan"] for call in calls[1:]} == {uri}
    assert Path(uri.removeprefix("file://")).exists()
    # The approval was marked as done by hand, which is not a yes.
    assert (what[-1], calls[-1]["by"]) == ("reject", "nobody")


def test_a_killed_step_is_tried_again_and_goes_on(runs: Runs) -> None:
    run = runs.run({"base": [-9, 5]})
    assert run["state"] == "success"
    assert run["tasks"]["base"] == {"state": "success", "tries": 3}
    assert [call["what"] for call in runs.calls()].count("base") == 3


@pytest.mark.parametrize(("what", "code"), [("checked", 3), ("base", 7), ("register", 8), ("plan", 2)])
def test_what_a_retry_cannot_mend_fails_at_once(runs: Runs, what: str, code: int) -> None:
    run = runs.run({what: [code]})
    assert run["state"] == "failed"
    assert run["tasks"][what] == {"state": "failed", "tries": 1}
    assert states(run)["promote"] == "upstream_failed"


def test_a_run_with_nothing_to_do_ends_green_as_no_change(runs: Runs) -> None:
    run = runs.run({"unchanged": [10]}, marked="")
    assert run["state"] == "success"
    assert states(run).pop("plan") == "success"
    assert {state for name, state in states(run).items() if name != "plan"} == {"skipped"}
    assert [call["what"] for call in runs.calls()] == ["plan", "unchanged"]


def test_a_candidate_that_is_the_champion_already_asks_nobody(runs: Runs) -> None:
    run = runs.run({"register": [10]}, marked="")
    assert run["state"] == "success"
    assert states(run)["register"] == "success"
    assert {states(run)["approve"], states(run)["promote"]} == {"skipped"}


def test_a_typing_error_in_the_form_stops_before_any_command(runs: Runs) -> None:
    run = runs.run({}, {"merged__wieght": 0.3})
    assert run["tasks"]["plan"] == {"state": "failed", "tries": 1}
    assert runs.calls() == []


def test_without_a_person_the_gates_alone_promote(runs: Runs) -> None:
    run = runs.run({}, {"reason": "weekly"}, marked="", recipe="policy")
    assert "approve" not in run["tasks"]
    assert states(run)["promote"] == "success"
    last = runs.calls()[-1]
    assert (last["what"], last["by"], last["reason"]) == ("promote", "policy", "weekly")
