"""Airflow's own alert for a late run, and its notice of a waiting approval, with its real scheduler."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import FAKE, started
from tests.browser.ui import eventually
from tests.local_servers import web_server

pytestmark = pytest.mark.slow

DAG = "train__tiny"


def test_a_late_run_and_a_waiting_approval_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server() as (url, posts):
        monkeypatch.setenv("PERENNIAL_DEADLINE_HOURS", "0.002")
        monkeypatch.setenv("PERENNIAL_NOTIFY", "webhook:hook on deadline, approval")
        monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps({"conn_type": "http", "host": url}))

        def told(event: str) -> list[dict[str, object]]:
            return [each for each in (json.loads(body) for _, body in posts) if each["event"] == event]

        with started(tmp_path, f"{sys.executable} {FAKE}") as desk:
            eventually(lambda: desk.api.dag(DAG), f"Airflow lists {DAG}")
            desk.api.set_paused(DAG, False)
            run = desk.api.trigger(DAG, {"reason": "a late one"})
            (late,) = eventually(lambda: told("deadline"), "the deadline is told")
            (waiting,) = eventually(lambda: told("approval"), "the approval is told")
            place = f"{desk.places.airflow}/dags/{DAG}/runs/"
            desk.api.stop_run(DAG, run)
    assert late["headline"] == f"{DAG}: a run is late"
    assert run in str(late["lines"])
    assert str(late["link"]).startswith(place)
    assert str(waiting["link"]).endswith("/tasks/approve/required_actions")
    assert "Promote the candidate of tiny" in str(waiting["lines"])
