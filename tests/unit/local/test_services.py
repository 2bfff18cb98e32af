"""Starting and stopping processes: found again, stopped as groups, failures told with the log's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.local import services
from tasks.local.places import Places
from tasks.local.services import Service
from tasks.recipe.failures import Infrastructure

SLEEPS = (
    sys.executable,
    "-c",
    "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)",
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "logs").mkdir()
    (tmp_path / "run").mkdir()
    return Places(tmp_path, f"file://{tmp_path}/store", airflow_port=1, mlflow_port=2, health_port=3)


def launch(places: Places, *each: Service) -> dict[str, subprocess.Popen[bytes]]:
    processes: dict[str, subprocess.Popen[bytes]] = {}
    for service in each:
        services._launch(service, places, dict(os.environ), processes)
    return processes


def test_what_was_started_is_stopped_with_its_children(places: Places) -> None:
    process = launch(places, Service("sleeper", SLEEPS, lambda: True))["sleeper"]
    assert services.stop(places.home) == ["sleeper"]
    process.wait(timeout=60)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert services.stop(places.home) == []


def test_services_that_ignore_sigterm_are_killed(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "STOP_SECONDS", 0.3)
    ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{ignores}; print('on', flush=True); time.sleep(60)"
    process = launch(places, Service("deaf", (sys.executable, "-c", code), lambda: True))["deaf"]
    until = time.monotonic() + 60
    while "on" not in services.log_tail(places.logs / "deaf.log") and time.monotonic() < until:
        time.sleep(0.02)
    services.stop(places.home)
    assert process.wait(timeout=60) == -signal.SIGKILL


def test_a_number_that_was_given_to_another_process_is_not_stopped(places: Places) -> None:
    process = launch(places, Service("sleeper", SLEEPS, lambda: True))["sleeper"]
    state = places.home / "run" / "services.json"
    state.write_text(state.read_text().replace('"created": ', '"created": 1'))
    assert services.stop(places.home) == []
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_services_are_found_again_only_when_all_of_them_live(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = [Service(name, SLEEPS, lambda: True) for name in ("one", "two")]
    monkeypatch.setattr(services, "table", lambda _: two)
    processes = launch(places, *two)
    assert services.find(places.home) == places
    os.killpg(processes["two"].pid, signal.SIGKILL)
    processes["two"].wait()
    assert services.find(places.home) is None
    services.stop(places.home)


def test_a_service_that_dies_is_told_with_the_end_of_its_log(places: Places) -> None:
    dies = Service("dies", (sys.executable, "-c", "raise SystemExit('no such database')"), lambda: False)
    processes = launch(places, dies)
    with pytest.raises(Infrastructure, match=r"dies ended with exit code 1(.|\n)*no such database"):
        services._wait([dies], processes, places, lambda _: None)


def test_a_service_that_does_not_answer_is_told(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "READY_SECONDS", 0.2)
    mute = Service("mute", SLEEPS, lambda: False)
    processes = launch(places, mute)
    with pytest.raises(Infrastructure, match="mute did not answer within"):
        services._wait([mute], processes, places, lambda _: None)
    services.stop(places.home)
    processes["mute"].wait(timeout=60)
