"""The DAG that looks for new data, under Airflow's own task runner, with the real command."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.airflow_runs import airflow_worker

pytestmark = pytest.mark.slow


class Watched:
    """A place, a DAG that looks at it, and what Airflow was told."""

    def __init__(self, folder: Path, worker: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.worker = worker

    def arrives(self, date: str, *texts: str) -> None:
        rows = [{"key": text, "text": f"{text} is the news of the day and of the week"} for text in texts]
        path = self.folder / "news" / f"{date}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def look(self) -> dict[str, str]:
        """Run the DAG; each task's state."""
        asked = {"dag": "watch__news", "conf": {}, "marked": "", "store": str(self.folder / "store")}
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        self.worker.stdin.write(json.dumps(asked) + "\n")
        self.worker.stdin.flush()
        for line in self.worker.stdout:
            if line.startswith("RESULT "):
                found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                assert found["state"] == "success", found
                return {name: task["state"] for name, task in found["tasks"].items()}
        raise AssertionError("the worker ended")

    def events(self) -> list[dict[str, Any]]:
        """What the events of the asset say, in order."""
        with sqlite3.connect(self.folder / "airflow.db") as database:
            found = database.execute(
                "select asset_event.extra from asset_event join asset on asset.id = asset_event.asset_id"
                " where asset.name = 'corpus/news' order by asset_event.id"
            )
            return [json.loads(extra) for (extra,) in found]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "news").mkdir()
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    (corpora / "news.yaml").write_text(f"corpus: news\nuri: file://{tmp_path}/news\nmodel: news\n")
    places = {"PERENNIAL_CORPORA": str(corpora), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with airflow_worker(tmp_path, **places) as process:
        yield Watched(tmp_path, process)


def test_p16_an_asset_event_for_each_slice_and_none_for_a_look_that_finds_nothing(watched: Watched) -> None:
    assert watched.look() == {"look": "skipped", "drift": "skipped"}
    assert watched.events() == []
    watched.arrives("2026-01-05", "one", "two")
    # There is no champion to compare with yet, which is no failure.
    assert watched.look() == {"look": "success", "drift": "skipped"}
    assert watched.look()["look"] == "skipped"
    watched.arrives("2026-01-12", "three")
    assert watched.look()["look"] == "success"
    events = watched.events()
    assert [(event["date"], event["rows"]) for event in events] == [("2026-01-05", 2), ("2026-01-12", 1)]
    kept = sorted((watched.folder / "store" / "corpus" / "news" / "slices").glob("*.json"))
    assert [json.loads(path.read_text())["digest"] for path in kept] == [event["digest"] for event in events]
