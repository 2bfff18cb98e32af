"""Issue 6, criterion 3: a real training stops with its checkpoint, and goes on from it with a higher budget.

What it ends with is what an uninterrupted training with no budget ends with, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.models import Budget
from tasks.runner import budget
from tasks.runner.process import read_plan
from tests import warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "recipes" / "tiny.yaml"
LONGER = [
    "--set", "steps.adapted.options.max_steps=240", "--set", "steps.adapted.options.epochs=200",
    "--set", "steps.adapted.options.checkpoint_every=20",
]  # fmt: skip
BEFORE = ["checked", "blank", "general_shards", "base", "shards"]


def start(home: Path, run: str) -> subprocess.Popen[str]:
    plan = f"file://{home}/store/runs/{run}/plan.json"
    return process(home, "step", "--plan", plan, "--step", "adapted")


def process(home: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PERENNIAL", "MLFLOW"))}
    return subprocess.Popen(
        [warm.python(), "-m", "tasks.cli", *arguments],
        cwd=ROOT,
        env=kept | {"PERENNIAL_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def perennial(home: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> tuple[int, str]:
    done = process(home, *arguments)
    output, _ = done.communicate()
    assert done.returncode in codes, output
    assert "Traceback" not in output
    return done.returncode, output


def freeze(home: Path, run: str, *more: str) -> None:
    perennial(home, "plan", str(RECIPE), "--freeze", "--run", run, *LONGER, *more)


def step(home: Path, run: str, name: str = "adapted", codes: tuple[int, ...] = (0,)) -> tuple[int, str]:
    plan = f"file://{home}/store/runs/{run}/plan.json"
    return perennial(home, "step", "--plan", plan, "--step", name, codes=codes)


def record(home: Path, run: str) -> dict[str, Any]:
    path = home / "store" / "runs" / run / "steps" / "adapted.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def costs(home: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(perennial(home, "costs", name, "--json")[1])
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which everything before `adapted` has run."""
    home = tmp_path_factory.mktemp("budget") / "home"
    freeze(home, "before")
    for name in BEFORE:
        step(home, "before", name)
    return home


def copied(prepared: Path, folder: Path) -> Path:
    shutil.copytree(prepared, folder / "home", symlinks=True)
    return folder / "home"


def linked(home: Path, run: str) -> None:
    """The steps before, from the cache."""
    for name in BEFORE:
        assert "cached" in step(home, run, name)[1]


def test_over_budget_stops_with_everything_kept_and_resumes_when_it_is_raised(
    prepared: Path, tmp_path: Path
) -> None:
    whole = copied(prepared, tmp_path / "whole")
    step(whole, "before")
    uninterrupted = record(whole, "before")

    home = copied(prepared, tmp_path / "tight")
    freeze(home, "tight", "--set", "budget.device_hours=1")
    linked(home, "tight")
    plan, store = read_plan(f"file://{home}/store/runs/tight/plan.json")
    began = time.monotonic()
    process = start(home, "tight")
    while not list((home / "store" / "checkpoints").glob("*/*/COMPLETE")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    # How quick this machine is, nobody knows before: so the budget is set when the training is under way.
    hours = (time.monotonic() - began + 1.0) / 3600
    budget.set_limit(store, plan, Budget(device_hours=hours), "ada", "enough")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 9, output
    assert "device hours of its budget" in output
    assert "saved its state at optimiser step" in output
    assert not (home / "store" / "runs" / "tight" / "steps" / "adapted.json").exists()
    found = costs(home, "tight")
    assert 0 < found["counted"]["device_hours"] <= hours  # before it was exceeded, the checkpoint included
    assert {each["step"] for each in found["steps"] if each["state"] == "stopped"} == {"adapted"}
    words = json.loads((home / "store" / "runs" / "tight" / "failures" / "adapted.json").read_text())
    assert words["failure"] == "OVER_BUDGET"

    # Not raised, another run of it is not even started, and takes nothing.
    freeze(home, "again", "--set", f"budget.device_hours={found['counted']['device_hours']}")
    linked(home, "again")
    assert "nothing is left for step 'adapted'" in step(home, "again", codes=(9,))[1]
    assert costs(home, "again")["device_hours"] == 0.0

    freeze(home, "raised", "--set", "budget.device_hours=1")
    linked(home, "raised")
    _, output = step(home, "raised")
    assert "resumed at step" in output
    resumed = record(home, "raised")
    assert resumed["fingerprint"] == uninterrupted["fingerprint"]
    assert resumed["outputs"] == uninterrupted["outputs"]
    assert resumed["attempts"] == 2
    [step_costs] = [each for each in costs(home, "raised")["steps"] if each["step"] == "adapted"]
    assert step_costs["carried"]["device_hours"] == pytest.approx(found["counted"]["device_hours"], rel=0.01)
    model = costs(home, "tiny")
    assert model["device_hours"] == pytest.approx(sum(run["device_hours"] for run in model["runs"]))


def test_the_same_run_goes_on_once_its_own_budget_is_raised(prepared: Path, tmp_path: Path) -> None:
    home = copied(prepared, tmp_path)
    perennial(home, "plan", str(RECIPE), "--freeze", "--run", "tight", "--set", "budget.cost=1e-9")
    linked(home, "tight")
    _, output = step(home, "tight", codes=(9,))
    assert "USD of its budget" in output
    plan = f"file://{home}/store/runs/tight/plan.json"
    perennial(home, "budget", "--plan", plan, "--cost", "5", "--by", "ada", codes=(2,))
    _, said = perennial(home, "budget", "--plan", plan, "--cost", "5", "--by", "ada", "--reason", "worth it")
    assert "1e-09 USD -> 5 USD by ada: worth it" in said
    step(home, "tight")
    assert record(home, "tight")["attempts"] == 2  # begun, with a billionth of a dollar, and stopped at once
    assert "adapted" in perennial(home, "costs", "tight")[1]
