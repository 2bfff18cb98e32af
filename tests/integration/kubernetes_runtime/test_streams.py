"""P3, P5: an API that fails now and then, and the log, while the pod runs and after it was killed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager
from airflow.sdk.exceptions import TaskDeferred
from runtimes.failures import StepFailed
from runtimes.kubernetes_trigger import WholeLog

from tasks.recipe.failures import Failure
from tests.integration.kubernetes_api import KubernetesApi
from tests.integration.kubernetes_lives import PODS, Moment, Wait, exited, running, says, scheduled, vanished
from tests.integration.kubernetes_runtime import task
from tests.integration.store_double import StoreDouble


def test_p5_the_log_comes_while_the_pod_runs(
    api: KubernetesApi, store: StoreDouble, said: Callable[[], str]
) -> None:
    api.script(scheduled(), running("early words"), Wait(), vanished())
    deferred = task.start(task.Task())

    async def watch() -> Any:
        ending = asyncio.create_task(task.first(task.trigger_of(deferred)))
        for _ in range(300):
            await asyncio.sleep(0.1)
            if "early words" in said():
                break
        api.go_on(task.pod(api)["metadata"]["name"])
        return await ending

    event = asyncio.run(watch())
    assert "early words" in said()
    with pytest.raises(StepFailed):
        task.operator().trigger_reentry(task.Task().context, event)


def test_p5_every_line_is_shown_once(api: KubernetesApi, store: StoreDouble, said: Callable[[], str]) -> None:
    """The trigger looks several times in a second, and while lines come."""
    lines = [f"line {number:02}" for number in range(40)]
    life: list[Moment | Wait] = []
    for at in range(0, 40, 8):
        life += [*map(says, lines[at : at + 8]), Wait()]
    api.script(scheduled(), running(), *life, store.commits(), exited(0))
    deferred = task.start(task.Task())
    name = task.pod(api)["metadata"]["name"]

    def looks() -> int:
        return sum(each.path.endswith("/log") for each in api.requests)

    def go_on_once_looked_at() -> None:
        for _ in range(5):
            before = looks()
            task.until(lambda before=before: looks() > before)  # type: ignore[misc]
            api.go_on(name)

    threading.Thread(target=go_on_once_looked_at).start()
    task.resume(task.Task(), deferred)
    told = said()
    assert [told.count(f"[step] {line}") for line in lines] == [1] * 40


def test_p5_a_watch_of_events_that_will_not_end_does_not_hold_up_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def deaf(*_: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(600)
        await asyncio.sleep(600)

    monkeypatch.setattr(AsyncPodManager, "watch_pod_events", deaf)

    async def give_up() -> None:
        watching = asyncio.create_task(WholeLog(async_hook=None).watch_pod_events(None))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        watching.cancel()
        done, _ = await asyncio.wait({watching}, timeout=60)
        assert done == {watching}

    asyncio.run(give_up())


@pytest.mark.parametrize("status", [409, 429, 500, 503, 0])
def test_p3_the_api_fails_now_and_then(api: KubernetesApi, store: StoreDouble, status: int) -> None:
    api.script(scheduled(), running("a line"), store.commits(), exited(0))
    api.fail(status, method="POST", path="/pods$", times=2)
    api.fail(status, method="GET", path="/pods/[^/]+$", times=3)
    api.fail(status, method="DELETE", path="/pods/", times=2)
    assert task.run(task.Task()) == []
    task.until(lambda: api.all(PODS) == [])
    assert task.created(api) == 1


def test_p3_429_is_retried_after_the_time_it_names(api: KubernetesApi, store: StoreDouble) -> None:
    api.script(scheduled(), running(), store.commits(), exited(0))
    api.fail(429, method="POST", path="/pods$", retry_after=1)
    assert task.run(task.Task()) == []
    first_post, second_post = [each.at for each in api.requests if each.method == "POST"]
    assert second_post - first_post >= 1


def test_p3_the_watch_of_events_is_gone(api: KubernetesApi, store: StoreDouble) -> None:
    api.script(scheduled(), running(), store.commits(), exited(0))
    api.fail(410, path="/events$", watch=True)
    api.cut(0, path="/events$")
    assert task.run(task.Task()) == []


def test_p3_a_triggerer_that_lost_sight_does_not_end_the_pod(api: KubernetesApi, store: StoreDouble) -> None:
    """The API is away for longer than the trigger tries; the pod, which lives, is waited for again."""
    api.script(scheduled(), running(), Wait(), store.commits(), exited(0))
    deferred = task.start(task.Task())
    name = task.pod(api)["metadata"]["name"]
    task.until(lambda: task.pod(api)["status"]["phase"] == "Running")
    api.fail(500, method="GET", path="/pods/", times=15)
    event = asyncio.run(task.first(task.trigger_of(deferred)))
    assert event["status"] == "error"
    with pytest.raises(TaskDeferred) as again:
        task.operator().trigger_reentry(task.Task().context, event)
    api.go_on(name)
    task.resume(task.Task(), again.value)
    assert task.created(api) == 1


def test_p3_a_triggerer_that_never_sees_the_pod_says_so_and_the_retry_finds_it(
    api: KubernetesApi, store: StoreDouble
) -> None:
    api.script(scheduled(), running(), Wait(), store.commits(), exited(0))
    deferred = task.start(task.Task())
    task.until(lambda: task.pod(api)["status"]["phase"] == "Running")
    event = {"status": "error", "message": "403", "name": task.pod(api)["metadata"]["name"]}
    event |= {"namespace": task.NAMESPACE, **deferred.trigger.trigger_kwargs, "watch": 3}
    with pytest.raises(StepFailed, match="cannot see it: 403") as failed:
        task.operator().trigger_reentry(task.Task().context, event)
    assert failed.value.failure is Failure.INFRASTRUCTURE
    again = task.start(task.Task(try_number=2))
    api.go_on(task.pod(api)["metadata"]["name"])
    task.resume(task.Task(try_number=2), again)
    assert task.created(api) == 1


def test_p5_a_log_stream_that_breaks_is_read_again(
    api: KubernetesApi, store: StoreDouble, said: Callable[[], str]
) -> None:
    api.script(scheduled(), running("one", "two", "three"), store.commits(), exited(0))
    deferred = task.start(task.Task())
    task.until(lambda: task.pod(api)["status"]["phase"] == "Succeeded")
    api.cut(1, path="/log$")
    task.resume(task.Task(), deferred)
    assert "three" in said()


def test_p5_the_tail_is_kept_when_the_pod_is_killed(
    api: KubernetesApi, store: StoreDouble, said: Callable[[], str]
) -> None:
    """Its log is gone with its node; the kubelet had put the last lines into its status."""
    api.script(
        scheduled(),
        running("lost"),
        exited(137, reason="OOMKilled", message="step 41\nstep 42: allocating"),
    )
    api.fail(500, path="/log$", times=20)
    with pytest.raises(StepFailed):
        task.one_try(task.Task())
    assert "step 42: allocating" in said()


def test_p5_what_a_killed_pod_printed_is_in_the_log(
    api: KubernetesApi, store: StoreDouble, said: Callable[[], str]
) -> None:
    api.script(scheduled(), running("step 1"), says("step 2", "step 3"), exited(137, reason="OOMKilled"))
    with pytest.raises(StepFailed):
        task.one_try(task.Task())
    assert "step 3" in said()
