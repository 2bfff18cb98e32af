"""Start and stop the laptop's services.

A table of processes, each with a health check; they start side by side, are found again through
`.perennial/run/services.json`, and are stopped as process groups. There is no triggerer: no task of ours is
deferred, and since Airflow 3.3 an approval waits without one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import requests

from tasks.local.airflow_api import AirflowApi
from tasks.local.places import AIRFLOW_DATABASE, HOST, ROOT, Places, choose, environment, login
from tasks.recipe.failures import Infrastructure
from tasks.runner.settings import Settings

READY_SECONDS = 300.0
"""How long the services may take: half a minute on two free cores, minutes where the machine is busy."""

ANSWER_SECONDS = 10.0
"""For one health check: on a busy machine the first answer of a server takes seconds."""

STOP_SECONDS = 15.0
TAIL_LINES = 25
GPU_POOL_SLOTS = 1


@dataclass(frozen=True)
class Service:
    """One process: what to start and how to see that it works."""

    name: str
    command: tuple[str, ...]
    healthy: Callable[[], bool]


@dataclass(frozen=True)
class Process:
    """A started service: the leader of its process group, and when it began, as numbers are used again."""

    pid: int
    created: float


def up(settings: Settings) -> int:
    """Start the services, leave them up, and print where they are; the exit code."""
    places, started = start(settings)
    user, password = login(places.home)
    print(f"Airflow  {places.airflow}   user {user}, password {password}")
    print(f"MLflow   {places.mlflow}")
    print(f"store    {places.store}")
    print("started; stop them with `make down`" if started else "they were up already")
    return 0


def down(settings: Settings) -> int:
    """Stop what `up` started; the exit code."""
    stopped = stop(settings.home)
    print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")
    return 0


def start(settings: Settings, say: Callable[[str], None] = print) -> tuple[Places, bool]:
    """Start what is not running and wait until all of it answers.

    Args:
        settings: Where the local state and the store are.
        say: Prints a line for the person who waits.

    Returns:
        Where the services are, and whether this call started them.

    Raises:
        Infrastructure: A service died or did not answer in time; the end of its log is in the message.
    """
    running = find(settings.home)
    if running is not None:
        return running, False
    stop(settings.home)
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        places = choose(settings, held)
        places.logs.mkdir(parents=True, exist_ok=True)
        (places.home / "run").mkdir(exist_ok=True)
        env = environment(places)
        try:
            _start_all(places, env, say)
        except BaseException:
            stop(places.home)
            raise
    say(f"services ready after {time.monotonic() - began:.0f} s")
    return places, True


def _start_all(places: Places, env: dict[str, str], say: Callable[[str], None]) -> None:
    """Start every service and wait until each answers."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    services = {service.name: service for service in table(places)}
    # Its database goes to it alone, and not on its command line: it may hold a password.
    database = {"MLFLOW_BACKEND_STORE_URI": places.mlflow_database}
    _launch(services["mlflow"], places, env | database, processes)
    _prepare_airflow(places, env, say)
    for service in services.values():
        if service.name not in processes:
            _launch(service, places, env, processes)
    _wait(list(services.values()), processes, places, say)
    _make_pool(places)


def find(place: Path) -> Places | None:
    """The running services, where every one of them lives."""
    state = _state(place)
    if state is None or not all(_alive(process) for process in state[1].values()):
        return None
    names = {service.name for service in table(state[0])}
    return state[0] if names == set(state[1]) else None


def table(places: Places) -> list[Service]:
    """The services of the laptop."""
    airflow = (sys.executable, "-m", "airflow")
    port = places.mlflow_port
    # fmt: off
    mlflow = (
        sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--allowed-hosts", f"{HOST}:{port},localhost:{port}",
        "--artifacts-destination", (places.home / "mlartifacts").as_uri(),
    )
    # fmt: on
    return [
        Service("mlflow", mlflow, lambda: _answers(f"{places.mlflow}/health")),
        Service("api-server", (*airflow, "api-server"), lambda: _answers(f"{places.airflow}/api/v2/version")),
        Service(
            "scheduler",
            # Its log server would listen on every interface; the web server reads the log files itself.
            (*airflow, "scheduler", "--skip-serve-logs"),
            lambda: _answers(f"http://{HOST}:{places.health_port}/health"),
        ),
        Service("dag-processor", (*airflow, "dag-processor"), lambda: _processor_healthy(places)),
    ]


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The end of a log, "" where there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _prepare_airflow(places: Places, env: dict[str, str], say: Callable[[str], None]) -> None:
    """Bring Airflow's database to this version's schema; nothing to do where that was done.

    Of a database elsewhere nothing is known here, so it is asked at every start.
    """
    done = places.airflow_home / "migrated"
    wanted = version("apache-airflow")
    ours = not os.environ.get(AIRFLOW_DATABASE)
    if ours and done.exists() and done.read_text(encoding="utf-8") == wanted:
        return
    say("preparing Airflow's database")
    places.airflow_home.mkdir(parents=True, exist_ok=True)
    log = places.logs / "migrate.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        code = subprocess.run(command, env=env, cwd=ROOT, stdout=file, stderr=file, check=False).returncode
    if code != 0:
        raise Infrastructure(
            f"`airflow db migrate` failed with exit code {code}. The end of {log}:\n{log_tail(log)}"
        )
    if ours:
        done.write_text(wanted, encoding="utf-8")


def _make_pool(places: Places) -> None:
    """The pool of the steps that say `resources: gpu`; a task of an unknown pool would never start."""
    api = AirflowApi(places.airflow, *login(places.home))
    api.make_pool("gpu", GPU_POOL_SLOTS, "Steps with `resources: gpu`")


def _launch(
    service: Service, places: Places, env: dict[str, str], processes: dict[str, subprocess.Popen[bytes]]
) -> None:
    with (places.logs / f"{service.name}.log").open("wb") as log:
        processes[service.name] = subprocess.Popen(
            service.command,
            env=env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    known = {
        name: asdict(Process(process.pid, psutil.Process(process.pid).create_time()))
        for name, process in processes.items()
        if process.poll() is None
    }
    state = {"places": asdict(places) | {"home": str(places.home)}, "processes": known}
    _state_path(places.home).write_text(json.dumps(state, indent=1), encoding="utf-8")


def _wait(
    services: list[Service],
    processes: dict[str, subprocess.Popen[bytes]],
    places: Places,
    say: Callable[[str], None],
) -> None:
    waiting = {service.name: service for service in services}
    until = time.monotonic() + READY_SECONDS
    while waiting:
        for name, service in list(waiting.items()):
            log = places.logs / f"{name}.log"
            code = processes[name].poll()
            if code is not None:
                raise Infrastructure(
                    f"{name} ended with exit code {code}. The end of {log}:\n{log_tail(log)}"
                )
            if service.healthy():
                del waiting[name]
                say(f"{name} is up")
        if time.monotonic() > until:
            names = ", ".join(waiting)
            log = places.logs / f"{next(iter(waiting))}.log"
            raise Infrastructure(
                f"{names} did not answer within {READY_SECONDS:.0f} s. The end of {log}:\n{log_tail(log)}"
            )
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=ANSWER_SECONDS).ok
    except requests.RequestException:
        return False


def _processor_healthy(places: Places) -> bool:
    try:
        health = requests.get(f"{places.airflow}/api/v2/monitor/health", timeout=ANSWER_SECONDS).json()
    except (requests.RequestException, ValueError):
        return False
    return bool(health.get("dag_processor", {}).get("status") == "healthy")


def _state_path(place: Path) -> Path:
    return place / "run" / "services.json"


def _state(place: Path) -> tuple[Places, dict[str, Process]] | None:
    path = _state_path(place)
    if not path.exists():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    places = Places(**state["places"] | {"home": Path(state["places"]["home"])})
    return places, {name: Process(**process) for name, process in state["processes"].items()}


def _alive(process: Process) -> bool:
    try:
        found = psutil.Process(process.pid)
        return found.create_time() == process.created and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(place: Path) -> list[str]:
    """Stop the services under `place`: SIGTERM to every process group, then SIGKILL to what is left.

    Returns:
        The names of those that were running.
    """
    state = _state(place)
    if state is None:
        return []
    # Each group is known by its leader: where that is gone, the number may be somebody else's by now.
    groups = {name: process.pid for name, process in state[1].items() if _alive(process)}
    for pid in groups.values():
        _signal_group(pid, signal.SIGTERM)
    started = time.monotonic()
    told_twice = False
    while (waited := time.monotonic() - started) < STOP_SECONDS:
        living = [pid for pid in groups.values() if _group_lives(pid)]
        if not living:
            break
        if waited > 3.0 and not told_twice:  # Airflow's scheduler waits for running tasks until told twice
            told_twice = True
            for pid in living:
                _signal_group(pid, signal.SIGTERM)
        time.sleep(0.1)
    for pid in groups.values():
        _signal_group(pid, signal.SIGKILL)
    _state_path(place).unlink(missing_ok=True)
    return list(groups)


def _group_lives(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # where we are the parent, a dead leader would stay a zombie
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
