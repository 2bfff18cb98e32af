"""Starts a process that runs DAGs under Airflow's own task runner, and talks to it."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
RECIPE = ROOT / "tests" / "recipes" / "tiny.yaml"


@contextmanager
def airflow_worker(folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process with Airflow, a database and a few recipes, which runs DAGs on request."""
    recipes = folder / "recipes"
    recipes.mkdir()
    text = RECIPE.read_text()
    (recipes / "tiny.yaml").write_text(text)
    policy = text.replace("recipe: tiny", "recipe: policy").replace("approval: human", "approval: none")
    (recipes / "policy.yaml").write_text(policy)
    two = text.replace("recipe: tiny", "recipe: two").replace(
        "approval: human", "approval: human\n  approvals: 2"
    )
    (recipes / "two.yaml").write_text(two)
    for name, like in (("smoked", text), ("smoked-policy", policy)):
        lines = like.replace("  approval:", '  smoke: {prompt: "The news:"}\n  approval:').splitlines()
        lines = [f"recipe: {name}" if line.startswith("recipe: ") else line for line in lines]
        (recipes / f"{name}.yaml").write_text("\n".join(lines))
    env = os.environ | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags")]),
        "PERENNIAL_HOME": str(folder / "home"),
        "PERENNIAL_RECIPES": str(recipes),
        **environment,
    }
    shutil.copy(migrated_database(), folder / "airflow.db")
    with (folder / "errors.log").open("w") as errors:
        command = [sys.executable, str(HERE / "airflow_dag_test.py")]
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        yield process
        process.communicate()


def migrated_database() -> Path:
    """Airflow's database as `airflow db migrate` makes it: once for all workers, to be copied."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    folder = Path(tempfile.gettempdir()) / f"perennial-airflow-{session}"
    folder.mkdir(exist_ok=True)
    made, making = folder / "airflow.db", folder / "making.db"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            return made
        atexit.register(shutil.rmtree, folder)
        env = os.environ | {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{making}",
        }
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        done = subprocess.run(migrate, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return making.rename(made)


class Runs:
    """Runs with a store of their own."""

    def __init__(self, worker: subprocess.Popen[str], store: Path) -> None:
        self.worker = worker
        self.store = store

    def run(
        self,
        behaviour: Mapping[str, list[int]] | None = None,
        conf: Mapping[str, Any] | None = None,
        marked: str = "approve",
        recipe: str = "tiny",
        dag: str = "",
    ) -> dict[str, Any]:
        """Run a recipe's DAG, or another one, to its end."""
        (self.store / "behaviour.json").write_text(json.dumps(behaviour or {}))
        asked = {
            "dag": dag or f"train__{recipe}",
            "conf": conf or {},
            "marked": marked,
            "store": str(self.store),
        }
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


def states(run: dict[str, Any]) -> dict[str, str]:
    """Each task's state at the end of a run."""
    return {name: task["state"] for name, task in run["tasks"].items()}
