"""The provider's trigger of a pod, with its log masked and whole: it shows the pod's events and lines."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager

from runtimes.log_lines import newer, seconds_since
from runtimes.masked_log import masked_log


class WholeLog(AsyncPodManager):
    """The provider's, with each line of the log once.

    The provider (10.25.0) leaves out the second in which it looks, and the next time asks for whole seconds
    since it looked: some lines come twice, and some never.
    """

    async def fetch_container_logs_before_current_sec(
        self, pod: Any, container_name: str, since_time: Any = None
    ) -> Any:
        """Show what is new; the moment of the last line shown, as Kubernetes wrote it."""
        after = since_time or ""
        lines = await self._hook.read_logs(
            name=pod.metadata.name,
            namespace=pod.metadata.namespace,
            container_name=container_name,
            since_seconds=seconds_since(after),
        )
        return await asyncio.to_thread(self._show, lines, container_name, after)  # others wait for the loop

    async def watch_pod_events(self, pod: Any, startup_check_interval: float = 30) -> None:
        """The provider's, given up at once when it is cancelled.

        It can swallow that, and then watches to the pod's end; the trigger waits for it and reads no log.
        """
        watching = asyncio.create_task(super().watch_pod_events(pod, startup_check_interval))
        try:
            await asyncio.wait({watching})
        finally:
            self.stop_watching_events = True
            watching.cancel()

    def _show(self, lines: list[str], container: str, after: str) -> str:
        for moment, words in newer((line.rstrip("\n") for line in lines), after):
            self.log.info("[%s] %s", container, words)
            after = moment
        return after


class MaskedPodTrigger(KubernetesPodTrigger):
    """Waits for a pod as the provider's trigger does."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """For Airflow's database."""
        _, given = super().serialize()
        return "runtimes.kubernetes_trigger.MaskedPodTrigger", given

    @property
    def log(self) -> Any:
        """Airflow's logger, masked."""
        return masked_log(self, super().log)

    @cached_property
    def pod_manager(self) -> AsyncPodManager:
        """Writes most of what is logged."""
        manager = WholeLog(async_hook=self.hook)
        masked_log(manager, manager.log)
        return manager
