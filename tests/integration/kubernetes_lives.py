"""Moments of the life of the objects in the Kubernetes API double (see kubernetes_api.py)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.integration.kubernetes_api import KubernetesApi

Object = dict[str, Any]
Kind = tuple[str, str, str]
"""Group ("" for core), version, plural."""

PODS: Kind = ("", "v1", "pods")
EVENTS: Kind = ("", "v1", "events")


@dataclass(frozen=True)
class Wait:
    """The life stands still here until `go_on(name)`."""


Moment = Callable[["KubernetesApi", Object], None]
Life = Sequence[Moment | Wait]


def scheduled(node: str = "node-1") -> Moment:
    """A node is found; its kubelet makes the container."""

    def act(api: KubernetesApi, pod: Object) -> None:
        pod["spec"]["nodeName"] = node
        _condition(pod, "PodScheduled", "True")
        pod["status"]["startTime"] = now()
        _container(pod, {"waiting": {"reason": "ContainerCreating"}})
        api.save(PODS, pod)

    return act


def unschedulable(message: str = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.") -> Moment:
    """No node fits."""

    def act(api: KubernetesApi, pod: Object) -> None:
        _condition(pod, "PodScheduled", "False", "Unschedulable", message)
        api.save(PODS, pod)
        api.event(pod, "FailedScheduling", message, warning=True)

    return act


def waiting(reason: str, message: str = "") -> Moment:
    """The container cannot start (ErrImagePull, ImagePullBackOff, CreateContainerConfigError ...)."""

    def act(api: KubernetesApi, pod: Object) -> None:
        _container(pod, {"waiting": {"reason": reason, "message": message}})
        api.save(PODS, pod)
        api.event(pod, "Failed", message or reason, warning=True)

    return act


def running(*lines: str) -> Moment:
    """The container runs and prints."""

    def act(api: KubernetesApi, pod: Object) -> None:
        pod["status"]["phase"] = "Running"
        _container(pod, {"running": {"startedAt": now()}})
        api.save(PODS, pod)
        api.log(pod, *lines)

    return act


def says(*lines: str) -> Moment:
    """The container prints."""
    return lambda api, pod: api.log(pod, *lines)


def exited(code: int, *, reason: str = "", message: str = "") -> Moment:
    """The container ends: with 0 the pod has succeeded, otherwise it has failed.

    Args:
        code: The exit code.
        reason: Kubernetes' word, by default Completed or Error; OOMKilled comes with 137.
        message: What it wrote to its termination file.
    """

    def act(api: KubernetesApi, pod: Object) -> None:
        pod["status"]["phase"] = "Failed" if code else "Succeeded"
        ended: Object = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "startedAt": now(),
            "finishedAt": now(),
        }
        if message:
            ended["message"] = message
        _container(pod, {"terminated": ended})
        api.save(PODS, pod)

    return act


def evicted(message: str = "The node was low on resource: ephemeral-storage.") -> Moment:
    """The kubelet puts the pod out: phase Failed with the reason Evicted and, as since 1.26, a condition."""

    def act(api: KubernetesApi, pod: Object) -> None:
        pod["status"].update(phase="Failed", reason="Evicted", message=message)
        _condition(pod, "DisruptionTarget", "True", "TerminationByKubelet", message)
        pod["status"].pop("containerStatuses", None)
        api.save(PODS, pod)

    return act


def disrupted(reason: str = "PreemptionByScheduler", message: str = "a pod of higher priority") -> Moment:
    """The pod is chosen to go; what ends it comes after. Other reasons: EvictionByEvictionAPI,
    DeletionByTaintManager, DeletionByPodGC, TerminationByKubelet.
    """

    def act(api: KubernetesApi, pod: Object) -> None:
        _condition(pod, "DisruptionTarget", "True", reason, message)
        api.save(PODS, pod)

    return act


def vanished() -> Moment:
    """The pod is gone: removed after a deletion, garbage collected, or lost with its node."""
    return lambda api, pod: api.remove(PODS, pod)


def _condition(pod: Object, kind: str, status: str, reason: str = "", message: str = "") -> None:
    conditions = [each for each in pod["status"].get("conditions", []) if each["type"] != kind]
    made: Object = {"type": kind, "status": status, "lastTransitionTime": now()}
    if reason:
        made.update(reason=reason, message=message)
    pod["status"]["conditions"] = [*conditions, made]


def _container(pod: Object, state: Object) -> None:
    first = pod["spec"]["containers"][0]
    pod["status"]["containerStatuses"] = [
        {
            "name": first["name"],
            "image": first.get("image", ""),
            "imageID": "",
            "ready": "running" in state,
            "restartCount": 0,
            "state": state,
            "lastState": {},
        }
    ]


def now(later: float = 0, *, micro: bool = False) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=later)
    return moment.isoformat(timespec="microseconds" if micro else "seconds").replace("+00:00", "Z")
