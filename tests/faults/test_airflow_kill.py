"""SIGKILL of the training process under Airflow: Airflow's own retries carry it to the same bits."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.integration.airflow_runs import Runs, airflow_worker, states

pytestmark = pytest.mark.slow

LONGER = {"adapted__max_steps": 40, "overrides": "steps.adapted.options.epochs: 40"}
AFTER = "unchanged|tuned|opinions|aligned|merged|report|register|approve|promote"
"""What is marked as done by hand: the test is about what comes before."""
MOMENTS = (1, 4, 8)
"""Killed after so many of the ten checkpoints, each time in another attempt of the same task."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("airflow")
    with airflow_worker(
        folder,
        PERENNIAL_COMMAND=f"{warm.python(cold='adapted')} -m tasks.cli",
        OMP_NUM_THREADS="1",
    ) as process:
        (folder / "store").mkdir()
        yield Runs(process, folder / "store")


def training_processes(store: Path) -> list[int]:
    """The processes that run `perennial step ... --step adapted` on this store (not the guard around one)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if words[1:4] == ["-m", "tasks.cli", "step"] and "adapted" in words and str(store) in "".join(words):
            found.append(int(entry.name))
    return found


class Killer(threading.Thread):
    """Kills the training at each of the moments; remembers how far it was and which process it was."""

    def __init__(self, store: Path) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.killed: list[tuple[int, int]] = []
        self.over = threading.Event()

    def run(self) -> None:
        before = self.complete()
        seen: set[str] = set()
        for moment in MOMENTS:
            while len(seen) < moment and not self.over.is_set():
                seen |= self.complete() - before
                time.sleep(0.005)
            for process in training_processes(self.store):
                os.kill(process, signal.SIGKILL)
                self.killed.append((len(seen), process))

    def complete(self) -> set[str]:
        """Every checkpoint of `adapted` that is complete (those of `base` were there before)."""
        return {str(path) for path in (self.store / "checkpoints").glob("*/*/COMPLETE")}


def adapted(store: Path, number: int) -> dict[str, Any]:
    """The record of `adapted` in the store's first or second run."""
    records = sorted((store / "runs").glob("*/steps/adapted.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, Any] = json.loads(records[number].read_text())
    return found


def test_airflow_resumes_a_training_killed_at_three_moments(runs: Runs) -> None:
    # The first run also makes what `adapted` needs; the second finds that, and only trains again.
    whole = runs.run(conf=LONGER, marked=AFTER)
    assert states(whole)["adapted"] == "success"
    killer = Killer(runs.store)
    killer.start()
    run = runs.run(conf=LONGER | {"refresh": "adapted"}, marked=AFTER)
    killer.over.set()
    killer.join()
    assert run["tasks"]["adapted"] == {"state": "success", "tries": len(MOMENTS) + 1}
    assert len(killer.killed) == len(MOMENTS)
    assert len({process for _, process in killer.killed}) == len(MOMENTS)
    resumed, uninterrupted = adapted(runs.store, 1), adapted(runs.store, 0)
    assert resumed["outputs"]["model"]["digest"] == uninterrupted["outputs"]["model"]["digest"]
    assert (uninterrupted["attempts"], resumed["attempts"]) == (1, len(MOMENTS) + 1)
