"""Which runtime a step gets, what every runtime is given, and how the store decides over what was seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from runtimes import steps, table
from runtimes.failures import StepFailed
from runtimes.process import ProcessOperator
from runtimes.steps import StepTask

from tasks.recipe.failures import ConfigInvalid, Failure

TASK = StepTask(
    name="tuned", recipe="r", model="m", owner="o", stage="sft", resources="gpu", doc_md="what it does"
)


def test_a_laptop_runs_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERENNIAL_RUNTIME", raising=False)
    made = table.make_step(TASK)
    assert isinstance(made, ProcessOperator)
    assert (made.task_id, made.pool) == ("tuned", "gpu")
    assert made.doc_md == "what it does"


def test_each_size_can_have_its_own_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_RUNTIME", "cpu=process, gpu=kubernetes,large=trainjob")
    assert [table.runtime_of(size) for size in table.SIZES] == ["process", "kubernetes", "trainjob"]
    monkeypatch.setenv("PERENNIAL_RUNTIME", "container")
    assert {table.runtime_of(size) for size in table.SIZES} == {"container"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("kubernets", "no runtime 'kubernets'; did you mean 'kubernetes'"),
        ("cpu=process,gppu=process", "no step has the size 'gppu'; did you mean 'gpu'"),
        ("cpu=process", "names no runtime for steps of the size 'gpu'"),
    ],
)
def test_a_wrong_setting_says_so(given: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_RUNTIME", given)
    with pytest.raises(ConfigInvalid, match=message):
        table.runtime_of("gpu")


def test_a_training_step_has_the_trainers_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_IMAGE_TRAINER", "registry/trainer@sha256:1")
    monkeypatch.delenv("PERENNIAL_IMAGE_CPU", raising=False)
    assert steps.image(TASK) == "registry/trainer@sha256:1"
    merge = StepTask(**{**vars(TASK), "stage": "merge", "name": "merged"})
    with pytest.raises(ConfigInvalid, match=r"step 'merged'.*PERENNIAL_IMAGE_CPU"):
        steps.image(merge)


def test_no_secret_is_handed_to_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AIRFLOW__CORE__FERNET_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/x")
    assert steps.settings()["PERENNIAL_STORE"] == "s3://bucket/x"
    assert "secret" not in steps.settings().values()


def conclude(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], seen: Failure | None, **more: Any
) -> list[str]:
    asked: list[str] = []

    def answer(*arguments: str) -> str:
        asked.extend(arguments)
        return json.dumps(told)

    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/x")
    monkeypatch.setattr(steps, "answer", answer)
    steps.conclude(TASK, "manual__1", "attempt-1", seen, "pod gone", **more)
    return asked


def test_a_pod_that_vanished_after_its_step_was_done_is_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = conclude(monkeypatch, {"state": "done"}, Failure.PREEMPTED)
    assert asked[0] == "outcome"
    assert asked[asked.index("--attempt") + 1] == "attempt-1"


@pytest.mark.parametrize(
    ("told", "seen", "expected"),
    [
        ({"state": "none"}, None, Failure.INFRASTRUCTURE),
        ({"state": "none"}, Failure.PREEMPTED, Failure.PREEMPTED),
        ({"state": "failed", "failure": "DATA_INVALID", "message": "bad row"}, None, Failure.DATA_INVALID),
    ],
)
def test_what_committed_nothing_failed_with_its_class(
    told: dict[str, Any], seen: Failure | None, expected: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StepFailed, match="pod gone") as caught:
        conclude(monkeypatch, told, seen)
    assert caught.value.failure is expected


def test_who_was_killed_for_memory_is_told_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"state": "failed", "failure": "OUT_OF_MEMORY", "message": "killed"}
    with pytest.raises(StepFailed) as caught:
        conclude(monkeypatch, told, None, killed_for_memory=True)
    assert caught.value.failure is Failure.OUT_OF_MEMORY
    asked = conclude(monkeypatch, {"state": "done"}, None, killed_for_memory=True)
    assert "--killed-for-memory" in asked
