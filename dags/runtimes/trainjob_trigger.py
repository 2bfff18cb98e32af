"""Waits on a TrainJob or JobSet without a worker: in Airflow's triggerer, by Kubernetes' watch API.

A trigger holds nothing that it could not see again: after a restart of the triggerer it runs anew, anywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import Any

import aiohttp
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes_asyncio.client import ApiClient, CoreV1Api, CustomObjectsApi
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.watch import Watch

from runtimes.log_lines import newer
from runtimes.masked_log import masked_log
from runtimes.trainjob_api import JOB_OF_POD, KINDS, NODE, RUNTIME, TRAINJOB, Object, by_index, index_of
from runtimes.trainjob_calls import async_hook
from runtimes.trainjob_judge import Seen, judge
from tasks.recipe.failures import Failure

TAIL_LINES = 200
"""Most lines of rank 0's log that are shown at once."""

LOG_SECONDS = 30.0
"""How often new ones are fetched."""

LONGEST_PAUSE = 60.0
"""Seconds between tries while Kubernetes' API does not answer. The job runs meanwhile, so there is no end."""


class TrainJobTrigger(BaseTrigger):
    """Fires once, when a job has ended or can no longer end well; tells of its progress until then.

    Args:
        kind: TrainJob or JobSet.
        namespace: Where it is.
        name: Of the job.
        uid: Of the job; another one of its name is not ours to delete.
        attempt: That the job was made for.
        startup: Seconds in which all of them must run.
        connection: The id of Airflow's connection to Kubernetes, or "": see trainjob_calls.hook.
        poll: Seconds after which pods are looked at although the job did not change.
    """

    def __init__(
        self,
        kind: str,
        namespace: str,
        name: str,
        uid: str,
        attempt: str,
        startup: float,
        connection: str,
        poll: float = 10.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        self.namespace = namespace
        self.name = name
        self.uid = uid
        self.attempt = attempt
        self.startup = startup
        self.connection = connection
        self.poll = poll
        self._shown = ""
        self._asked = 0.0

    @property
    def log(self) -> Any:
        """Airflow's logger, masked."""
        return masked_log(self, super().log)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """For Airflow's database; it holds no secret."""
        names = ("kind", "namespace", "name", "uid", "attempt", "startup", "connection", "poll")
        return (
            "runtimes.trainjob_trigger.TrainJobTrigger",
            {name: getattr(self, name) for name in names},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, tell what is new, wait for a change; until the end."""
        told, pause = "", 1.0
        while True:
            try:
                async with self._hook.get_conn() as connection:
                    version, seen, pods = await self._look(connection)
                    if told != f"{seen.state}: {seen.words}":
                        told = f"{seen.state}: {seen.words}"
                        self.log.info("%s %s is %s", self.kind, self.name, told)
                    await self._show_log(connection, pods, last=seen.ended)
                    if seen.ended:
                        yield TriggerEvent(self._event(seen))  # type: ignore[no-untyped-call]
                        return
                    pause = 1.0
                    await self._change(connection, version)
            except ApiException as error:
                if error.status in (401, 403):
                    words = f"Kubernetes does not let the triggerer look at the job: {error.reason}"
                    refused = Seen("failed", words, True, Failure.CONFIG_INVALID.name)
                    yield TriggerEvent(self._event(refused))  # type: ignore[no-untyped-call]
                    return
                if error.status != 410:  # a watch from too long ago: look again
                    pause = await self._hold_on(f"{error.status} {error.reason}", pause)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                pause = await self._hold_on(f"{type(error).__name__}: {error}", pause)

    async def on_kill(self) -> None:
        """A person marked or cleared the task: the job must not run on. A restart does not come here."""
        self.log.info("deleting %s %s with its pods", self.kind, self.name)
        async with self._hook.get_conn() as connection:
            custom: Any = CustomObjectsApi(connection)  # its types do not know JSON
            body = {"propagationPolicy": "Foreground", "preconditions": {"uid": self.uid}}
            await _delete(custom, KINDS[self.kind].where, self.namespace, self.name, body)
            if self.kind == TRAINJOB.kind:
                await _delete(custom, RUNTIME.where, self.namespace, self.name, {})

    @cached_property
    def _hook(self) -> AsyncKubernetesHook:
        return async_hook(self.connection)

    def _event(self, seen: Seen) -> dict[str, Any]:
        """What the worker that goes on needs: what was seen, and of which job."""
        names = ("kind", "namespace", "name", "uid", "attempt")
        return seen.as_event() | {"job": {name: getattr(self, name) for name in names}}

    async def _look(self, connection: ApiClient) -> tuple[str, Seen, list[Object]]:
        """What is there now, and the version from which on changes are to be watched."""
        api = KINDS[self.kind]
        custom: Any = CustomObjectsApi(connection)  # its types do not know JSON
        found = await custom.list_namespaced_custom_object(
            **api.where, namespace=self.namespace, field_selector=f"metadata.name={self.name}"
        )
        listed = await CoreV1Api(connection).list_namespaced_pod(
            self.namespace, label_selector=f"{JOB_OF_POD}={self.name}"
        )
        pods = by_index([connection.sanitize_for_serialization(pod) for pod in listed.items])
        job = next(iter(found["items"]), None)
        version = str(found["metadata"]["resourceVersion"])
        return version, judge(api, job, pods, self.startup), pods

    async def _change(self, connection: ApiClient, version: str) -> None:
        """Return when the job changes, or after a while, since its pods may have changed alone."""
        async with Watch() as watch:
            stream = watch.stream(
                CustomObjectsApi(connection).list_namespaced_custom_object,
                **KINDS[self.kind].where,
                namespace=self.namespace,
                field_selector=f"metadata.name={self.name}",
                resource_version=version,
                timeout_seconds=max(1, round(self.poll)),
            )
            async for _ in stream:
                return

    async def _show_log(self, connection: ApiClient, pods: Sequence[Object], *, last: bool) -> None:
        """Show what rank 0 printed since the last time."""
        first = [pod for pod in pods if index_of(pod) == 0 and pod["status"].get("phase") != "Pending"]
        if not first or (time.monotonic() - self._asked < LOG_SECONDS and not last):
            return
        self._asked = time.monotonic()
        try:
            core: Any = CoreV1Api(connection)
            raw = await core.read_namespaced_pod_log(  # bytes: a line may be cut in a letter
                *(first[0]["metadata"]["name"], self.namespace),
                container=NODE,
                tail_lines=TAIL_LINES,
                timestamps=True,
                _preload_content=False,
            )
            text = (await raw.read()).decode("utf-8", "replace")
        except ApiException as error:
            if error.status not in (400, 404):  # not started after all, or gone: the store has its log
                raise
            return
        for moment, line in newer(text.splitlines(), self._shown):
            self._shown = moment
            self.log.info("%s", line)

    async def _hold_on(self, why: str, pause: float) -> float:
        self.log.warning("Kubernetes' API does not answer (%s); again in %.0f s", why, pause)
        await asyncio.sleep(pause)
        return min(2 * pause, LONGEST_PAUSE)


async def _delete(custom: Any, where: dict[str, str], namespace: str, name: str, body: Object) -> None:
    try:
        await custom.delete_namespaced_custom_object(**where, namespace=namespace, name=name, body=body)
    except ApiException as error:
        if error.status not in (404, 409):  # it is gone; or another one has its name
            raise
