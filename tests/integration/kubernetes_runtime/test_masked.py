"""What the cluster and registries say of a pod is masked in Airflow's log and in the failure."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable

import pytest
from runtimes.failures import StepFailed

from tests.integration.kubernetes_api import KubernetesApi
from tests.integration.kubernetes_lives import EVENTS, Wait, exited, running, scheduled, waiting
from tests.integration.kubernetes_runtime.task import Task, pod, resume, run, start, until
from tests.integration.store_double import StoreDouble

REGISTRY = "https://robot:hunter2hunter2@registry.example/v2/"


def test_a_registrys_password_is_masked_in_events_and_in_the_failure(
    api: KubernetesApi, store: StoreDouble, said: Callable[[], str]
) -> None:
    """The provider's trigger shows the pod's events; the failure names the reason."""
    busy = waiting("ErrImagePull", f"Get {REGISTRY}: 429 Too Many Requests")
    api.script(scheduled(), busy, Wait(), waiting("ImagePullBackOff", REGISTRY))
    deferred = start(Task())
    name = pod(api)["metadata"]["name"]

    def looks() -> int:
        return sum("/events" in each.path for each in api.requests)

    def go_on_once_looked_at() -> None:
        until(lambda: bool(api.all(EVENTS)))
        before = looks()
        until(lambda: looks() >= before + 2)  # one of them began after there was an event
        api.go_on(name)

    threading.Thread(target=go_on_once_looked_at).start()
    with pytest.raises(StepFailed) as failed:
        resume(Task(), deferred)
    assert "https://***@registry.example/v2/" in str(failed.value)
    logged = said()
    assert "The Pod has an Event: Get https://***@registry.example/v2/: 429" in logged
    assert "hunter2" not in logged + "".join(traceback.format_exception(failed.value))


def test_the_termination_message_and_the_log_are_masked(
    api: KubernetesApi, store: StoreDouble, said: Callable[[], str]
) -> None:
    words = {"failure": "DIVERGED", "message": f"no answer from {REGISTRY}"}
    api.script(scheduled(), running(f"reading {REGISTRY}"), exited(1, message=json.dumps(words)))
    with pytest.raises(StepFailed, match=r"https://\*\*\*@registry") as failed:
        run(Task())
    logged = said()
    assert "reading https://***@registry.example/v2/" in logged
    assert "hunter2" not in logged + "".join(traceback.format_exception(failed.value))


def test_what_the_api_refuses_is_masked(api: KubernetesApi, store: StoreDouble) -> None:
    api.fail(422, path="/pods$", method="POST", message=f"image {REGISTRY} is no reference")
    with pytest.raises(StepFailed, match=r"image https://\*\*\*@registry") as failed:
        run(Task())
    assert "hunter2" not in "".join(traceback.format_exception(failed.value))
