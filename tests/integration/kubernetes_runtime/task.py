"""A step's task on the kubernetes runtime, through the provider's real operator and trigger and real clients.

A try goes as in Airflow: `execute`, the trigger from its serialised form, then the method that it resumes, in
a new operator. The cluster is the double of kubernetes_api.py, over HTTP.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import TaskDeferred
from airflow.serialization.serialized_objects import BaseSerialization
from runtimes import kubernetes
from runtimes.failures import RETRIES_OF_PODS, StepFailed
from runtimes.steps import StepTask

from tests.integration.kubernetes_api import KubernetesApi
from tests.integration.kubernetes_lives import PODS, Object

RUN = "manual__2026-11-21T12:29:26.123456+00:00"
IMAGE = "registry.example/perennial/trainer@sha256:" + "0" * 64
STEP = StepTask("adapted", "pydocs", "pydocs", "ada", "pretrain", "gpu", "doc")
NAMESPACE = "perennial-steps"


def attempt_of(pod: Object) -> str:
    env = {each["name"]: each.get("value", "") for each in pod["spec"]["containers"][0]["env"]}
    return str(env["PERENNIAL_ATTEMPT"])


@dataclasses.dataclass
class Task:
    """A task instance, as far as the operator sees one."""

    try_number: int = 1
    state: dict[str, Any] = dataclasses.field(default_factory=dict)
    dag_id: str = "train__pydocs"
    task_id: str = STEP.name
    run_id: str = RUN
    map_index: int = -1
    start_date: datetime.datetime = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)

    def xcom_push(self, key: str, value: Any) -> None:
        """Airflow's; nothing reads it."""

    @property
    def context(self) -> Any:
        return {"ti": self, "run_id": self.run_id, "dag": None, "task_state_store": State(self.state)}


class State:
    """Airflow's task state store."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept = kept

    def get(self, key: str, default: Any = None) -> Any:
        return self.kept.get(key, default)

    def set(self, key: str, value: Any) -> None:
        self.kept[key] = json.loads(json.dumps(value))


def operator() -> kubernetes.KubernetesStepOperator:
    """As another process would make it from the DAG's file, but more impatient while a pod starts."""
    made = kubernetes.make(STEP)
    made.startup_check_interval_seconds = 0.05  # type: ignore[assignment]
    return made


def start(task: Task) -> TaskDeferred:
    """Run the task until it waits."""
    with pytest.raises(TaskDeferred) as deferred:
        operator().execute(task.context)
    return deferred.value


def trigger_of(deferred: TaskDeferred) -> Any:
    """The trigger as the triggerer makes it: from what Airflow keeps in its database."""
    path, given = deferred.trigger.serialize()
    given = BaseSerialization.deserialize(json.loads(json.dumps(BaseSerialization.serialize(given))))
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)(**given)


async def first(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")


def resume(task: Task, deferred: TaskDeferred) -> None:
    """Wait as the triggerer does, then go on as a worker does, to the end of this try."""
    while True:
        event = asyncio.run(first(trigger_of(deferred)))
        method = getattr(operator(), deferred.method_name)
        try:
            method(task.context, **(deferred.kwargs or {}), event=event)
        except TaskDeferred as again:
            deferred = again
        else:
            return


def one_try(task: Task) -> None:
    """A try, from its start to its end, which may come without a wait."""
    try:
        operator().execute(task.context)
    except TaskDeferred as deferred:
        resume(task, deferred)


def run(task: Task, most: int = 200) -> list[str]:
    """All tries that the retry policy allows; the failures before the success. The last failure is raised."""
    failures = []
    policy = operator().retry_policy
    assert policy is not None
    for _ in range(most):
        try:
            one_try(task)
        except StepFailed as error:
            failures.append(error.failure.name)
            decision = policy.evaluate(error, task.try_number, RETRIES_OF_PODS, task.context)
            if decision.action is not RetryAction.RETRY or task.try_number > RETRIES_OF_PODS:
                raise
            task.try_number += 1
        else:
            return failures
    raise AssertionError("no end")


def pod(api: KubernetesApi) -> Object:
    (found,) = api.all(PODS)
    return found


def created(api: KubernetesApi) -> int:
    """How many pods were ever made."""
    return sum(what == "ADDED" and kind == PODS for _, what, kind, _ in api._history)


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.01)
