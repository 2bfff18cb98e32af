"""The client of Airflow's API against a small server: requests, errors, what is tried again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tasks.local.airflow_api import AirflowApi
from tasks.recipe.failures import Infrastructure

Script = dict[tuple[str, str], list[tuple[int, Any]]]


@pytest.fixture
def server() -> Iterator[tuple[str, Script, list[tuple[str, str, Any, str]]]]:
    """A server that answers as scripted; the last answer of a path stays."""
    script: Script = {("POST", "/auth/token"): [(201, {"access_token": "T"})]}
    seen: list[tuple[str, str, Any, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = self.path.partition("?")[0]
            seen.append((self.command, self.path, body, self.headers.get("Authorization", "")))
            answers = script[(self.command, path)]
            code, content = answers.pop(0) if len(answers) > 1 else answers[0]
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = answer

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", script, seen
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


def test_a_run_is_triggered_as_the_logged_in_user(server: Any) -> None:
    address, script, seen = server
    script[("POST", "/api/v2/dags/train__x/dagRuns")] = [(200, {"dag_run_id": "r1"})]
    assert AirflowApi(address, "admin", "secret").trigger("train__x", {"reason": "why"}) == "r1"
    assert seen[0][:3] == ("POST", "/auth/token", {"username": "admin", "password": "secret"})
    assert seen[1][2:] == ({"logical_date": None, "conf": {"reason": "why"}}, "Bearer T")


def test_an_answer_is_given_as_a_user_gives_it(server: Any) -> None:
    address, script, seen = server
    path = "/api/v2/dags/d/dagRuns/r/taskInstances/approve/-1/hitlDetails"
    script[("PATCH", path)] = [(200, {})]
    AirflowApi(address, "admin", "secret").answer("d", "r", "approve", "Approve", {"reason": "good"})
    assert seen[-1][:3] == (
        "PATCH",
        path,
        {"chosen_options": ["Approve"], "params_input": {"reason": "good"}},
    )


def test_an_error_says_what_was_asked_and_what_airflow_said(server: Any) -> None:
    address, script, _ = server
    script[("PATCH", "/api/v2/dags/x")] = [(404, {"detail": "no DAG x"})]
    with pytest.raises(Infrastructure, match=r"PATCH /api/v2/dags/x: 404 .*no DAG x"):
        AirflowApi(address, "admin", "secret").set_paused("x", False)


def test_reading_is_tried_again_while_the_server_struggles(server: Any) -> None:
    address, script, _ = server
    path = ("GET", "/api/v2/dags/d/dagRuns/r")
    script[path] = [(503, {}), (503, {}), (200, {"state": "running"})]
    assert AirflowApi(address, "admin", "secret").run("d", "r")["state"] == "running"


def test_a_trigger_is_never_sent_twice(server: Any) -> None:
    address, script, seen = server
    script[("POST", "/api/v2/dags/d/dagRuns")] = [(503, {}), (200, {"dag_run_id": "r"})]
    with pytest.raises(Infrastructure, match="503"):
        AirflowApi(address, "admin", "secret").trigger("d", {})
    assert [each[0] for each in seen] == ["POST", "POST"]  # the login and one trigger


def test_an_existing_pool_stays_as_somebody_set_it(server: Any) -> None:
    address, script, seen = server
    script[("GET", "/api/v2/pools")] = [(200, {"pools": [{"name": "gpu", "slots": 8}]})]
    AirflowApi(address, "admin", "secret").make_pool("gpu", 1, "")
    assert [each[0] for each in seen] == ["POST", "GET"]


def test_an_airflow_that_is_away_is_told_by_its_address() -> None:
    with pytest.raises(Infrastructure, match=r"Airflow at http://127\.0\.0\.1:1: POST /auth/token"):
        AirflowApi("http://127.0.0.1:1", "admin", "secret")
