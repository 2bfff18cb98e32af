"""The container runtime, through the real client, against a double that speaks Docker's API."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.sdk import RetryAction
from runtimes import container, container_request
from runtimes.container import ContainerOperator, make
from runtimes.failures import RETRIES_OF_PODS, RetryByClass, StepFailed
from runtimes.steps import StepTask

from tasks.recipe.failures import Failure
from tests.unit.dags.docker_double import Container, Daemon, docker_daemon

TASK = StepTask("merged", "pydocs", "pydocs", "ml-team", "merge", "cpu", "what it does")
IMAGE = "registry/cpu@sha256:" + "1" * 64
RUN = "manual__1"
REGISTRY = "https://robot:hunter2hunter2@registry.example/v2/"


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    monkeypatch.setenv("PERENNIAL_IMAGE_CPU", IMAGE)
    monkeypatch.setattr(container, "LOOK_SECONDS", 0.01)
    with docker_daemon() as running:
        monkeypatch.setenv("DOCKER_HOST", running.url)
        running.images.add(IMAGE)
        running.next = {"ends": {"ExitCode": 0}}
        yield running


@pytest.fixture
def concluded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the store was asked; it answers that the step is done unless a test says otherwise."""
    asked: list[tuple[Any, ...]] = []

    def conclude(task: StepTask, run_id: str, attempt: str, *seen: Any) -> None:
        asked.append((attempt, *seen))

    monkeypatch.setattr(container, "conclude", conclude)
    return asked


def operator() -> tuple[ContainerOperator, list[str]]:
    task = make(TASK)
    said: list[str] = []
    task.log.info = lambda text, *words: said.append(text % words if words else text)
    return task, said


def run(task: ContainerOperator) -> None:
    """Execute outside of a task runner (Airflow wraps `execute` in a guard against just that)."""
    ContainerOperator.execute.__wrapped__(task, {"run_id": RUN})  # type: ignore[attr-defined]


def failure(task: ContainerOperator) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        run(task)
    return caught.value


def eventually(true: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def left_by_an_attempt_before(daemon: Daemon, **more: Any) -> Container:
    given = container_request.arguments(TASK, RUN, "attempt-before")
    left = Container(given["name"], {"Image": IMAGE, "Labels": given["labels"]}, **more)
    daemon.containers[left.name] = left
    return left


def test_a_step_runs_logs_is_concluded_and_removed(daemon: Daemon, concluded: list[tuple[Any, ...]]) -> None:
    daemon.next["output"] = ["merged: runs", "merged: dö ne"]
    task, said = operator()
    run(task)
    assert [line for line in said if line.startswith("merged")] == ["merged: runs", "merged: dö ne"]
    made = daemon.made[0].created
    assert made["Cmd"][:2] == ["step", "--plan"]
    assert made["HostConfig"]["ReadonlyRootfs"] is True
    assert made["HostConfig"]["CapDrop"] == ["ALL"]
    assert concluded == [(made["Labels"]["perennial.attempt"], None, concluded[0][2], False)]
    assert f"PERENNIAL_ATTEMPT={concluded[0][0]}" in made["Env"]
    assert daemon.containers == {}


def test_a_container_lost_by_its_worker_is_taken_up_and_not_doubled(
    daemon: Daemon, concluded: list[tuple[Any, ...]]
) -> None:
    left = left_by_an_attempt_before(daemon, state={"Status": "running"}, output=["step 1"])
    task, said = operator()
    threading.Timer(0.2, lambda: left.end(ExitCode=0)).start()
    run(task)
    assert daemon.made == []
    assert "step 1" in said
    assert concluded[0][0] == "attempt-before"


def test_a_container_that_ended_while_no_worker_watched_is_concluded(
    daemon: Daemon, concluded: list[tuple[Any, ...]]
) -> None:
    left = left_by_an_attempt_before(daemon)
    left.end(ExitCode=137, OOMKilled=True)
    run(operator()[0])
    assert daemon.made == []
    assert concluded[0][:2] == ("attempt-before", Failure.OUT_OF_MEMORY)
    assert concluded[0][3] is True


def test_a_container_that_was_made_but_not_started_is_started(
    daemon: Daemon, concluded: list[tuple[Any, ...]]
) -> None:
    left_by_an_attempt_before(daemon, ends={"ExitCode": 0})
    run(operator()[0])
    assert daemon.made == []
    assert daemon.count(r"POST .*/start") == 1
    assert concluded[0][1] is None


@pytest.mark.parametrize("status", [409, 500])
def test_two_workers_in_one_moment_make_one_container(
    status: int, daemon: Daemon, concluded: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker's container appears between our look and our creation."""
    look = container.find

    def late(connection: Any, name: str) -> Any:
        if not daemon.containers:
            daemon.refuses = (status, "the container name is already in use")
            found = look(connection, name)
            left_by_an_attempt_before(daemon, state={"Status": "running"}, ends=None).end(ExitCode=0)
            return found
        return look(connection, name)

    monkeypatch.setattr(container, "find", late)
    run(operator()[0])
    assert daemon.made == []
    assert concluded[0][0] == "attempt-before"


def test_a_log_that_is_cut_is_followed_again_without_a_line_twice_or_lost(
    daemon: Daemon, concluded: list[tuple[Any, ...]]
) -> None:
    daemon.next |= {"output": [f"line {number}" for number in range(6)], "cut": 3}
    task, said = operator()
    run(task)
    assert [line for line in said if line.startswith("line")] == [f"line {number}" for number in range(6)]
    assert daemon.made[0].streams >= 2


def test_a_container_that_somebody_removed_is_judged_by_the_store(
    daemon: Daemon, concluded: list[tuple[Any, ...]]
) -> None:
    daemon.next = {"output": ["working"], "ends": None}
    task, said = operator()

    def remove() -> None:
        eventually(lambda: "working" in said)
        _, gone = daemon.containers.popitem()
        gone.end()

    threading.Thread(target=remove).start()
    run(task)
    assert concluded[0][1] is Failure.PREEMPTED
    assert "removed" in concluded[0][2]


def test_cancelling_asks_for_a_checkpoint_and_an_end(
    daemon: Daemon, concluded: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_GRACE_SECONDS", "7")
    daemon.next = {"output": ["working"], "ends": None}
    task, said = operator()
    running = threading.Thread(target=lambda: run(task))
    running.start()
    eventually(lambda: "working" in said)
    task.on_kill()
    running.join(60)
    assert not running.is_alive()
    assert daemon.stops == [7]
    assert daemon.containers == {}


def test_killing_what_never_started_does_nothing(daemon: Daemon) -> None:
    operator()[0].on_kill()
    assert daemon.asked == []


def test_an_image_is_pulled_where_it_is_missing(daemon: Daemon, concluded: list[tuple[Any, ...]]) -> None:
    daemon.images.clear()
    daemon.registry[IMAGE] = None
    run(operator()[0])
    assert daemon.images == {IMAGE}
    assert len(concluded) == 1


def test_an_image_that_is_nowhere_fails_at_once_with_its_reference(daemon: Daemon) -> None:
    daemon.images.clear()
    error = failure(operator()[0])
    assert error.failure is Failure.CONFIG_INVALID
    assert IMAGE in str(error)
    assert "manifest unknown" in str(error)
    assert RetryByClass().evaluate(error, 1, 4).action is RetryAction.FAIL


def test_a_registry_in_trouble_is_tried_again(daemon: Daemon) -> None:
    daemon.images.clear()
    daemon.registry[IMAGE] = "toomanyrequests: slow down"
    error = failure(operator()[0])
    assert error.failure is Failure.INFRASTRUCTURE
    assert IMAGE in str(error)
    assert RetryByClass().evaluate(error, 1, 4).action is RetryAction.RETRY


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "invalid mount", Failure.CONFIG_INVALID),
        (500, "no space left on device", Failure.INFRASTRUCTURE),
    ],
)
def test_a_creation_that_is_refused_has_its_class(
    status: int, message: str, expected: Failure, daemon: Daemon
) -> None:
    daemon.refuses = (status, message)
    error = failure(operator()[0])
    assert error.failure is expected
    assert message in str(error)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (500, "exec: 'perennial': executable file not found in $PATH", Failure.CONFIG_INVALID),
        (500, "could not select device driver with capabilities: [[gpu]]", Failure.CONFIG_INVALID),
        (500, "cgroup: cannot allocate", Failure.INFRASTRUCTURE),
    ],
)
def test_a_start_that_is_refused_has_its_class_and_leaves_no_container(
    status: int, message: str, expected: Failure, daemon: Daemon
) -> None:
    daemon.start_refuses = (status, message)
    error = failure(operator()[0])
    assert error.failure is expected
    assert IMAGE in str(error)
    assert daemon.containers == {}


def test_no_daemon_is_an_infrastructure_failure(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    error = failure(operator()[0])
    assert error.failure is Failure.INFRASTRUCTURE
    assert "DOCKER_HOST" in str(error)


def test_a_missing_setting_fails_without_a_retry(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERENNIAL_IMAGE_CPU")
    error = failure(operator()[0])
    assert error.failure is Failure.CONFIG_INVALID
    assert daemon.asked == []


def test_the_tasks_own_arguments_are_those_of_every_runtime() -> None:
    task = make(TASK)
    assert (task.task_id, task.pool, task.doc_md) == ("merged", "default_pool", "what it does")
    assert isinstance(task.retry_policy, RetryByClass)


def test_being_preempted_often_does_not_use_up_the_tries() -> None:
    task = make(TASK)
    assert task.retries == RETRIES_OF_PODS


def test_a_registrys_password_is_masked_in_the_failure(daemon: Daemon) -> None:
    """Also in what Airflow shows with it: the errors that led to it."""
    daemon.images.clear()
    daemon.registry[IMAGE] = f"Get {REGISTRY}: denied"
    error = failure(operator()[0])
    assert "Get https://***@registry.example/v2/: denied" in str(error)
    assert "hunter2" not in "".join(traceback.format_exception(error))


def test_a_password_is_masked_in_a_refusal_and_in_all_that_led_to_it(daemon: Daemon) -> None:
    daemon.start_refuses = (500, f"no such file or directory: {REGISTRY}")
    error = failure(operator()[0])
    assert "https://***@registry.example/v2/" in str(error)
    assert "hunter2" not in "".join(traceback.format_exception(error))


def test_what_the_operator_logs_is_masked(
    daemon: Daemon,
    concluded: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("TEAM_PASSWORD", "correct horse battery")
    daemon.next["output"] = [f"from {REGISTRY}, 100% done", "with correct horse battery"]
    run(make(TASK))
    logged = capsys.readouterr().out + caplog.text
    assert "from https://***@registry.example/v2/, 100% done" in logged
    assert "with ***" in logged
    assert "hunter2" not in logged
    assert "battery" not in logged
