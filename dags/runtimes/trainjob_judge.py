"""What the pods of a job tell: how far it is, whether it can still end well, and why it did not."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtimes.pods import CANNOT_RUN, OWN_LIMIT, last_words
from runtimes.pods import GONE as TAKEN_AWAY
from runtimes.trainjob_api import Api, Object, active_since, by_index, index_of, nodes_of, state_of
from tasks.recipe.failures import Failure, failure_of

NO_START = {
    "ImagePullBackOff": "the image cannot be pulled",
    "InvalidImageName": "the image's name is not one",
    "ErrImageNeverPull": "the image is not on the machine, and may not be pulled",
    "CreateContainerConfigError": "the container refers to something that is not there",
    "CreateContainerError": "the container cannot be made",
    "RunContainerError": "the container cannot be started",
}
"""Why a container waits -> what that means. Waiting longer mends none; one failed pull (ErrImagePull) may be
chance, so the second counts, which Kubernetes calls ImagePullBackOff."""


TOGETHER = datetime.timedelta(seconds=60)
"""Pods of one job are made together; one that is younger by more than this replaces another."""


@dataclass(frozen=True)
class Seen:
    """What can be seen of a job now.

    Attributes:
        state: suspended, waiting (not all pods run yet), running, succeeded, failed, or gone.
        words: For people: counts, reasons, the image, the node.
        ended: Nothing more is to be waited for, although pods may still run.
        failure: The class of what went wrong, by name; "" where nothing did, or nobody knows.
        memory: A container was killed for memory, and could not say so itself.
    """

    state: str
    words: str
    ended: bool = False
    failure: str = ""
    memory: bool = False

    def as_event(self) -> dict[str, Any]:
        """As JSON, which Airflow keeps in its database: what is known outlives job and pods."""
        return asdict(self)


GONE = Seen("gone", "the job is not there any more", ended=True)


def judge(api: Api, job: Object | None, pods: Sequence[Object], startup: float) -> Seen:
    """Look at a job and its pods.

    Args:
        api: The job's kind.
        job: The job, or None where there is none.
        pods: Its pods.
        startup: Seconds in which all pods must run once the job may make them.
    """
    if job is None:
        return GONE
    state, said = state_of(api, job)
    # Older ones are of an earlier job of this name, deleted without them.
    made = _moment(job["metadata"]["creationTimestamp"])
    pods = by_index([pod for pod in pods if _made(pod) >= made])
    if state == "suspended":
        return Seen(state, said)
    if state == "succeeded":
        return Seen(state, said or "all ranks ended well", ended=True)
    hopeless = _disrupted(pods) or _cannot_start(pods) or _replaced(pods)
    if state == "failed":
        why = hopeless or _killed_for_memory(pods) or _last_words(pods)
        told = why or Seen(state, "no pod is left to say why", ended=True)
        words = f"{told.words} ({said})" if said else told.words
        return Seen("failed", words, True, told.failure, told.memory)
    if hopeless:
        return hopeless
    nodes = nodes_of(api, job)
    started = [pod for pod in pods if pod.get("status", {}).get("phase") not in (None, "Pending", "Unknown")]
    if len({index_of(pod) for pod in started}) < nodes:
        words = "; ".join([f"{len(started)} of {nodes} pods run", *_reasons(pods)])
        began = max([_moment(active_since(job)), *map(_made, pods)])
        if (datetime.datetime.now(datetime.UTC) - began).total_seconds() > startup:
            words = f"not all pods ran within {startup:.0f} s: {words}"
            return Seen("failed", words, True, Failure.INFRASTRUCTURE.name)
        return Seen("waiting", words)
    return Seen("running", f"all {nodes} pods run" if nodes > 1 else "the pod runs")


def _disrupted(pods: Sequence[Object]) -> Seen | None:
    """A pod that the cluster took away. The others wait in vain: no rank goes on without all."""
    for pod in pods:
        status = pod.get("status", {})
        if status.get("phase") == "Succeeded":
            continue
        if status.get("reason") == "Evicted" and OWN_LIMIT.search(status.get("message", "")):
            words = (
                f"{_name(pod)} was evicted for its own use of the disk: {status['message']}; raise "
                "`sizeLimit` and `ephemeral-storage` in its pod template"
            )
            return Seen("failed", words, True, Failure.INFRASTRUCTURE.name)
        for each in status.get("conditions", []):
            if each["type"] == "DisruptionTarget" and str(each["status"]) == "True":
                words = f"{_name(pod)} was taken away: {each.get('reason', '')}: {each.get('message', '')}"
                return Seen("failed", words, True, Failure.PREEMPTED.name)
        if status.get("reason") in TAKEN_AWAY:
            words = f"{_name(pod)}: {TAKEN_AWAY[status['reason']]}: {status.get('message', '')}"
            return Seen("failed", words, True, Failure.PREEMPTED.name)
    return None


def _replaced(pods: Sequence[Object]) -> Seen | None:
    """A pod that was made long after another one began stands for one that is lost, with its rank."""
    began = [
        (started, pod)
        for pod in pods
        for container in _containers(pod)
        if (started := container.get("state", {}).get("running", {}).get("startedAt"))
    ]
    for pod in pods:
        for started, other in began:
            if index_of(pod) != index_of(other) and _made(pod) > _moment(started) + TOGETHER:
                words = f"{_name(pod)} was made in place of one that is lost; {_name(other)} ran already"
                return Seen("failed", words, True, Failure.PREEMPTED.name)
    return None


def _cannot_start(pods: Sequence[Object]) -> Seen | None:
    for pod in pods:
        for container in _containers(pod):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason") in NO_START:
                words = (
                    f"{_name(pod)}: {NO_START[waiting['reason']]} ({waiting['reason']}), image "
                    f"'{container['image']}': {waiting.get('message', '')}"
                )
                return Seen("failed", words, True, Failure.CONFIG_INVALID.name)
    return None


def _killed_for_memory(pods: Sequence[Object]) -> Seen | None:
    for pod in pods:
        for container in _containers(pod):
            if container.get("state", {}).get("terminated", {}).get("reason") == "OOMKilled":
                words = f"{_name(pod)} was killed: it used more memory than its limit"
                return Seen("failed", words, True, Failure.OUT_OF_MEMORY.name, memory=True)
    return None


def _last_words(pods: Sequence[Object]) -> Seen | None:
    """The first failure, from what the containers left: the ranks that fail after it only miss the first.

    A rank that was stopped, or lost another, says PREEMPTED; any other class is the cause.
    """
    ended = [
        (terminated, pod)
        for pod in pods
        for container in _containers(pod)
        if (terminated := container.get("state", {}).get("terminated")) and terminated["exitCode"] != 0
    ]
    ended.sort(key=lambda each: each[0].get("finishedAt") or "")
    told = [(last_words(terminated.get("message", "")), terminated, pod) for terminated, pod in ended]
    for words, _, pod in sorted(told, key=lambda each: each[0].failure is Failure.PREEMPTED):
        if words.failure is not None:
            return Seen("failed", f"{_name(pod)}: {words.message}", True, words.failure.name)
    if not told:
        return None
    words, terminated, pod = told[0]
    code, reason = terminated["exitCode"], terminated.get("reason", "")
    how = f"{_name(pod)} ended with exit code {code} ({reason}): {' '.join(words.tail[-3:])}"
    if reason in CANNOT_RUN:
        return Seen("failed", how, True, Failure.CONFIG_INVALID.name)
    # torchrun ends with 1 whatever its ranks ended with, so 1 is not a bug of ours.
    failure = Failure.INFRASTRUCTURE if code == 1 else failure_of(code)
    return Seen("failed", how, True, failure.name)


def _reasons(pods: Sequence[Object]) -> list[str]:
    """Why pods do not run yet."""
    found = []
    for pod in pods:
        status = pod.get("status", {})
        if status.get("phase") != "Pending":
            continue
        reasons = [
            f"{each.get('reason', '')}: {each.get('message', '')}"
            for each in status.get("conditions", [])
            if each["type"] == "PodScheduled" and str(each["status"]) == "False"
        ]
        waiting = [each.get("state", {}).get("waiting", {}).get("reason", "") for each in _containers(pod)]
        found += [f"{_name(pod)} {each}" for each in [*reasons, *filter(None, waiting)]]
    return found


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _name(pod: Object) -> str:
    on = pod.get("spec", {}).get("nodeName")
    return f"pod {pod['metadata']['name']}" + (f" on {on}" if on else "")


def _made(pod: Object) -> datetime.datetime:
    return _moment(pod["metadata"]["creationTimestamp"])


def _moment(text: str) -> datetime.datetime:
    """Kubernetes writes Z, its clients +00:00: as texts they do not compare."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
