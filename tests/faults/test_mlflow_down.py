"""MLflow is away: told in bounded time, nothing lost, and a retry completes without doing anything twice."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.failures import RETRIED, Infrastructure
from tasks.tracking import registry, runs, server
from tasks.tracking.runs import Point, RunFacts, StepFacts

FACTS = RunFacts("pydocs", "run-1", "pydocs", "file:///plan.json", "because")
STEP = StepFacts("adapted", "pretrain", "continue", "f" * 64, {"lr": 1e-4})


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LIMIT_SECONDS", 1.0)
    monkeypatch.setattr(server, "PAUSE_SECONDS", 0.05)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def broken_server() -> Iterator[str]:
    """A server that answers everything with 503, as a proxy does while MLflow restarts."""

    class Unavailable(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Unavailable)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_the_shipped_limits_tell_a_failure_within_a_minute() -> None:
    from tasks.tracking.server import HTTP_SETTINGS

    timeout = int(HTTP_SETTINGS["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    requests_per_attempt = 1 + int(HTTP_SETTINGS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    # The fixture shortens the limit in the module; the default stands in its source.
    source = Path(server.__file__).read_text()
    limit = float(source.split("LIMIT_SECONDS = ")[1].split()[0])
    assert limit + timeout * requests_per_attempt <= 60


def test_nobody_listens(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{free_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(Infrastructure) as raised:
        runs.open_parent(FACTS)
    assert uri in str(raised.value)
    assert "retry" in str(raised.value)
    assert raised.value.failure in RETRIED
    with pytest.raises(Infrastructure, match="read version 'champion'"):
        registry.find_version("pydocs", "champion")


def test_the_server_is_restarting(broken_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", broken_server)
    with pytest.raises(Infrastructure, match="503"):
        runs.open_parent(FACTS)


def test_a_retry_completes_what_the_outage_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database goes away after the step's run was opened and half its curve sent; then it is back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    points = [Point("loss", 5.0 - step / 100, step) for step in range(1500)]
    parent = runs.open_parent(FACTS)
    step = runs.open_step(parent, STEP)

    client = server._client(server.tracking_uri(), os.getpid())
    batches, send = [], client.log_batch

    def log_batch(*arguments: Any, **named: Any) -> None:
        batches.append(named)
        if len(batches) > 1:
            raise OSError("connection reset by peer")
        send(*arguments, **named)

    with monkeypatch.context() as outage:
        outage.setattr(client, "log_batch", log_batch)
        with pytest.raises(Infrastructure, match="log metrics"):
            runs.log_metrics(step, points)

    assert runs.open_parent(FACTS) == parent
    assert runs.open_step(parent, STEP) == step
    runs.log_metrics(step, points, skip_logged=True)
    runs.log_outputs(step, outputs={"model": "d1"}, cached=False, reasons=["first run"], device_seconds=1.0)
    runs.end(step, "FINISHED")
    history = server.call("read", lambda client: client.get_metric_history(step, "loss"))
    assert sorted(point.step for point in history) == list(range(1500))
    found = server.call("read", lambda client: client.get_run(step))
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.0001"}


def test_a_server_that_comes_back_in_time_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LIMIT_SECONDS", 20.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    back = time.monotonic() + 0.3

    def act(client: Any) -> str:
        if time.monotonic() < back:
            raise OSError("connection refused")
        return "answered"

    assert server.call("read", act) == "answered"
