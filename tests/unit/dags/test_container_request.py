"""What a step's container is made of, and what its end says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from runtimes import container_request as request
from runtimes.steps import StepTask

from tasks.recipe.failures import ConfigInvalid, Failure

RUN = "manual__2026-11-21T12:29:26.123456+00:00"
CPU = StepTask("merged", "pydocs", "pydocs", "ml-team", "merge", "cpu", "")
GPU = StepTask("adapted", "pydocs", "pydocs", "ml-team", "pretrain", "gpu", "")
LARGE = StepTask("base", "pydocs", "pydocs", "ml-team", "pretrain", "large", "")


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("NETWORK", "SCRATCH", "SECRETS", "STORE", "USER", "MEMORY", "CPUS", "GPUS", "SHM", "TMP", "PASS"),
    ):
        monkeypatch.delenv(f"PERENNIAL_CONTAINER_{name}", raising=False)
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    monkeypatch.setenv("PERENNIAL_IMAGE_CPU", "registry/cpu@sha256:1")
    monkeypatch.setenv("PERENNIAL_IMAGE_TRAINER", "registry/trainer@sha256:2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")


def made(task: StepTask = CPU) -> dict[str, Any]:
    return request.arguments(task, RUN, "attempt-1")


def test_the_command_is_that_of_every_runtime() -> None:
    plan = "s3://bucket/store/runs/pydocs-manual__2026-11-21T122926.123456Z/plan.json"
    assert made()["command"] == ["step", "--plan", plan, "--step", "merged"]
    assert made()["image"] == "registry/cpu@sha256:1"
    assert made(GPU)["image"] == "registry/trainer@sha256:2"


def test_a_step_has_one_name_and_no_other_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = request.container_name(CPU, RUN)
    assert name == request.container_name(CPU, RUN)
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name)
    others = {request.container_name(GPU, RUN), request.container_name(CPU, "manual__2")}
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/another")
    others.add(request.container_name(CPU, RUN))
    assert len(others | {name}) == 4


def test_a_container_may_do_nothing_but_its_work() -> None:
    given = made()
    assert given["user"] == "10001:10001"
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges"]
    assert given["pids_limit"] == request.PIDS
    assert "/tmp" in given["tmpfs"]
    assert [mount["Target"] for mount in given["mounts"]] == ["/scratch"]
    assert not {"privileged", "cap_add", "devices", "ports"} & set(given)


def test_labels_say_whose_it_is() -> None:
    assert made()["labels"] == {
        "perennial.recipe": "pydocs",
        "perennial.run": "pydocs-manual__2026-11-21T122926.123456Z",
        "perennial.step": "merged",
        "perennial.team": "ml-team",
        "perennial.attempt": "attempt-1",
    }


def test_limits_are_set_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_CONTAINER_MEMORY", "cpu=8g,gpu=64g")
    monkeypatch.setenv("PERENNIAL_CONTAINER_CPUS", "cpu=1.5")
    monkeypatch.setenv("PERENNIAL_CONTAINER_SHM", "256m")
    assert made()["mem_limit"] == made()["memswap_limit"] == 8 << 30
    assert made()["nano_cpus"] == 1_500_000_000
    assert made(GPU)["mem_limit"] == 64 << 30
    assert made(GPU)["shm_size"] == 256 << 20
    assert "nano_cpus" not in made(GPU)
    assert "mem_limit" not in made(LARGE)


def test_gpus_are_given_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "device_requests" not in made()
    assert made(GPU)["device_requests"] == [{"Driver": "", "Count": 1, "Capabilities": [["gpu"]]}]
    assert made(LARGE)["device_requests"][0]["Count"] == -1
    monkeypatch.setenv("PERENNIAL_CONTAINER_GPUS", "gpu=0,large=4")
    assert "device_requests" not in made(GPU)
    assert made(LARGE)["device_requests"][0]["Count"] == 4


def test_secrets_are_files_and_never_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("PERENNIAL_CONTAINER_SECRETS", "perennial-secrets")
    given = made()
    assert "hidden" not in str(given)
    assert given["environment"]["AWS_SHARED_CREDENTIALS_FILE"] == "/run/secrets/perennial/aws-credentials"
    mount = {"Type": "volume", "Source": "perennial-secrets", "Target": "/run/secrets/perennial"}
    assert given["mounts"][1] == mount | {"ReadOnly": True}


def test_the_environment_holds_settings_and_what_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_CONTAINER_PASS", "OMP_NUM_THREADS, NCCL_DEBUG")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    found = made()["environment"]
    assert (found["OMP_NUM_THREADS"], found["NCCL_DEBUG"]) == ("4", "WARN")
    assert found["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert found["PERENNIAL_ATTEMPT"] == "attempt-1"
    assert found["PERENNIAL_HOME"] == "/scratch"
    assert found["PERENNIAL_IMAGE"] == made()["image"]


def test_a_local_store_is_mounted_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_STORE", "file:///srv/store")
    with pytest.raises(ConfigInvalid, match=r"file:///srv/store is a folder.*PERENNIAL_CONTAINER_STORE"):
        made()
    monkeypatch.setenv("PERENNIAL_CONTAINER_STORE", "/srv/store")
    mount = {"Type": "bind", "Source": "/srv/store", "Target": "/srv/store", "ReadOnly": False}
    assert made()["mounts"][1] == mount
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/x")
    with pytest.raises(ConfigInvalid, match=r"PERENNIAL_CONTAINER_STORE.*s3://bucket/x"):
        made()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MEMORY", "plenty", "'plenty' is no size"),
        ("MEMORY", "cppu=4g", "no step has the size 'cppu'; did you mean 'cpu'"),
        ("CPUS", "two", "'two' is no number of cores"),
        ("GPUS", "gpu=some", "'some' is neither a number nor 'all'"),
        ("USER", "root", "'root' is not a numeric user:group"),
        ("USER", "0:0", "'0:0' is not a numeric user:group"),
        ("PASS", "NOT_SET_ANYWHERE", "'NOT_SET_ANYWHERE', which is not set"),
        ("PASS", "AWS_SECRET_ACCESS_KEY", "looks like a secret"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PERENNIAL_CONTAINER_{name}", value)
    with pytest.raises(ConfigInvalid, match=rf"PERENNIAL_CONTAINER_{name}.*{message}"):
        made(GPU)


def test_the_time_for_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERENNIAL_GRACE_SECONDS", raising=False)
    assert request.grace_seconds() == 120
    monkeypatch.setenv("PERENNIAL_GRACE_SECONDS", "0.5")
    assert request.grace_seconds() == 1
    monkeypatch.setenv("PERENNIAL_GRACE_SECONDS", "soon")
    with pytest.raises(ConfigInvalid, match="PERENNIAL_GRACE_SECONDS: 'soon'"):
        request.grace_seconds()


@pytest.mark.parametrize(
    ("state", "failure"),
    [
        ({"ExitCode": 0}, None),
        ({"ExitCode": 0, "OOMKilled": True}, None),  # a child was killed, and the step did without it
        ({"ExitCode": 2}, Failure.CONFIG_INVALID),
        ({"ExitCode": 3}, Failure.DATA_INVALID),
        ({"ExitCode": 4}, Failure.OUT_OF_MEMORY),
        ({"ExitCode": 5}, Failure.PREEMPTED),
        ({"ExitCode": 6}, Failure.INFRASTRUCTURE),
        ({"ExitCode": 1}, Failure.BUG),
        ({"ExitCode": 137}, Failure.PREEMPTED),
        ({"ExitCode": 143}, Failure.PREEMPTED),
        ({"ExitCode": 134}, Failure.INFRASTRUCTURE),
        ({"ExitCode": 139}, Failure.INFRASTRUCTURE),
        ({"ExitCode": 137, "OOMKilled": True}, Failure.OUT_OF_MEMORY),
        ({"ExitCode": 127}, Failure.CONFIG_INVALID),
    ],
)
def test_an_end_has_its_class(state: dict[str, Any], failure: Failure | None) -> None:
    found = request.seen(state, "registry/cpu@sha256:1")
    assert found.failure is failure
    assert found.killed_for_memory is (failure is Failure.OUT_OF_MEMORY and "OOMKilled" in state)


def test_an_image_that_cannot_start_is_named() -> None:
    found = request.seen({"ExitCode": 127, "Error": "perennial: not found"}, "registry/cpu@sha256:1")
    assert "registry/cpu@sha256:1" in found.words
    assert "perennial: not found" in found.words
