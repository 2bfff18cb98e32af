"""What a pod of a step is called, and what its status says about how it ended. No cluster is asked here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow.providers.cncf.kubernetes.utils.pod_manager import detect_pod_terminate_early_issues
from kubernetes.client import V1ContainerState, V1Pod

from runtimes.process import plan_of
from runtimes.steps import StepTask
from tasks.recipe.failures import Failure, failure_of
from tasks.recipe.run_names import run_name

CONTAINER = "step"
"""The container's name."""

ATTEMPT = "perennial/attempt"
"""Annotation: what the container has as PERENNIAL_ATTEMPT."""

READ = "perennial/read"
"""Label of a pod that failed and whose end was dealt with; the next attempt removes it."""

INSTALLATION = "perennial/installation"
"""Label of everything that an installation makes."""

LONGEST = 63
"""Characters of a label's value and of a pod's name."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")

GONE: Mapping[str, str] = {
    "Evicted": "evicted",
    "Preempting": "displaced by a pod that its node needs",
    "Preempted": "preempted",
    "NodeLost": "its node is lost",
    "NodeShutdown": "its node shuts down",
    "Terminated": "its node shuts down",
    "Shutdown": "its node shuts down",
    "ContainerStatusUnknown": "its node is lost",
}
"""Reasons of a pod or a container that the cluster ended for its own purposes."""

CANNOT_START = ("CreateContainerConfigError", "InvalidImageName", "ErrImageNeverPull")
"""Reasons of a waiting container that waiting does not mend."""

CANNOT_RUN = ("StartError", "ContainerCannotRun")
"""Reasons of a container whose image has no such command, or that its node's runtime refuses."""

OWN_LIMIT = re.compile(r"exceeds the (total )?limit", re.IGNORECASE)
"""An eviction that the step itself caused: another node would not help."""


@dataclass(frozen=True)
class Seen:
    """What was seen of a pod's end.

    Attributes:
        failure: The class, None where it ended well.
        words: For people.
        killed_for_memory: The kernel killed it for memory.
        tail: Its last lines, where Kubernetes kept them with its status.
    """

    failure: Failure | None
    words: str
    killed_for_memory: bool = False
    tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class LastWords:
    """A termination message: what tasks/runner/process.py writes, or the last lines that the kubelet kept."""

    failure: Failure | None
    message: str
    tail: tuple[str, ...]


# ---- names


def label_value(text: str) -> str:
    """A valid value of a label: the text itself where it is one, else its valid part and a hash of it all."""
    if len(text) <= LONGEST and _LABEL.fullmatch(text):
        return text
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[: LONGEST - 9].strip("._-")
    return f"{plain}-{_digest(text)}".lstrip("-") if text else ""


def pod_name(task: StepTask, run_id: str) -> str:
    """The one name of a step's pods in a run, whichever attempt: the API server then refuses a second pod.

    Its hash covers the plan's URI, so that two installations with one namespace do not meet.
    """
    whole = f"{plan_of(task.recipe, run_id)} {task.name}"
    plain = re.sub(r"[^a-z0-9]+", "-", f"{task.recipe}-{task.name}".lower())[: LONGEST - 11].strip("-")
    return f"{plain}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}".lstrip("-")


def installation() -> str:
    """The label that tells the pods of installations apart that share a namespace: a hash of the store."""
    return _digest(os.environ.get("PERENNIAL_STORE", ""))


def labels(task: StepTask, run_id: str) -> dict[str, str]:
    """The labels of a step's pod: who, what and for which run, for queries, quotas and bills."""
    run = run_name(task.recipe, run_id)
    given = {
        "app.kubernetes.io/name": "perennial",
        "app.kubernetes.io/component": "step",
        "app.kubernetes.io/instance": run,
        "app.kubernetes.io/part-of": "perennial",
        "app.kubernetes.io/managed-by": "airflow",
        INSTALLATION: installation(),
        "perennial/recipe": task.recipe,
        "perennial/model": task.model,
        "perennial/run": run,
        "perennial/step": task.name,
        "perennial/stage": task.stage,
        "perennial/team": task.owner,
    }
    return {key: label_value(value) for key, value in given.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# ---- status


def ended(pod: V1Pod) -> bool:
    """True once the pod, or its container, which is never started twice, has ended, well or not."""
    state = container_state(pod)
    return pod.status.phase in ("Succeeded", "Failed") or (state is not None and state.terminated is not None)


def container_state(pod: V1Pod) -> V1ContainerState | None:
    """The state of the step's container, None before there is one."""
    for each in pod.status.container_statuses or []:
        if each.name == CONTAINER:
            return each.state
    return None


def observe(pod: V1Pod | None, image: str, told: str = "") -> Seen:
    """How a pod ended, or why it did not start.

    Args:
        pod: As it was last read; None where it is gone.
        image: What it runs, for the message.
        told: What the trigger that waited for it said.
    """
    if pod is None:
        return Seen(Failure.PREEMPTED, "the pod is gone: deleted, displaced, or lost with its node")
    state = container_state(pod)
    where = f"pod {pod.metadata.name}" + (f" on {pod.spec.node_name}" if pod.spec.node_name else "")
    overdrawn = _overdrawn(pod, where)
    if overdrawn is not None:
        return overdrawn
    if state is not None and state.terminated is not None:
        return _terminated(pod, state.terminated, where)
    if pod.status.phase == "Succeeded":
        return Seen(None, f"{where} succeeded")
    if pod.status.phase == "Failed":
        return _disrupted(pod, where) or Seen(
            Failure.INFRASTRUCTURE, f"{where} failed: {_reason(pod) or 'Kubernetes gives no reason'}"
        )
    return _waiting(pod, state, image, where, told)


def last_words(message: str) -> LastWords:
    """Read a termination message.

    Kubernetes keeps 4096 bytes, so the JSON may lack its end; the class comes before what is long.
    """
    try:
        found: Any = json.loads(message)
    except ValueError:
        found = None
    if isinstance(found, dict) and "failure" in found:
        tail = tuple(str(each) for each in found.get("tail") or ())
        return LastWords(_failure_named(str(found["failure"])), str(found.get("message", "")), tail)
    named = re.match(r'\s*\{.*?"failure":\s*"([A-Z_]+)"', message, re.DOTALL)
    if named:
        return LastWords(_failure_named(named[1]), message[named.end() :].strip(' ,"}'), ())
    return LastWords(None, "", tuple(message.splitlines()))


def _terminated(pod: V1Pod, terminated: Any, where: str) -> Seen:
    words = last_words(terminated.message or "")
    code, reason = terminated.exit_code, terminated.reason or ""
    if code == 0:
        return Seen(None, f"{where} ended with exit code 0", tail=words.tail)
    how = f"{where}: {reason or 'ended'}, exit code {code}" + (f": {words.message}" if words.message else "")
    if reason == "OOMKilled":
        return Seen(Failure.OUT_OF_MEMORY, f"{how}: over its memory limit", True, words.tail)
    if words.failure is not None:
        return Seen(words.failure, how, tail=words.tail)
    if reason in CANNOT_RUN:
        return Seen(Failure.CONFIG_INVALID, f"{how}: {' '.join(words.tail)}")
    disrupted = _disrupted(pod, where)
    if disrupted is not None:
        return Seen(disrupted.failure, disrupted.words, tail=words.tail)
    return Seen(failure_of(code), how, tail=words.tail)


def _overdrawn(pod: V1Pod, where: str) -> Seen | None:
    """The cluster ended the pod for what it did itself: on another node it would do so again."""
    reason, message = pod.status.reason or "", pod.status.message or ""
    if reason == "Evicted" and OWN_LIMIT.search(message):
        return Seen(
            Failure.INFRASTRUCTURE,
            f"{where} evicted for its own use of the disk: {message}; raise `sizeLimit` and "
            "`ephemeral-storage` in its pod template",
        )
    if reason == "DeadlineExceeded":
        return Seen(
            Failure.INFRASTRUCTURE, f"{where}: the template's activeDeadlineSeconds are over: {message}"
        )
    return None


def _disrupted(pod: V1Pod, where: str) -> Seen | None:
    """The cluster itself ended the pod: an eviction, a preemption, a node that went."""
    reason, message = pod.status.reason or "", pod.status.message or ""
    for each in pod.status.conditions or []:
        if each.type == "DisruptionTarget" and each.status == "True":
            return Seen(Failure.PREEMPTED, f"{where} {_joined('displaced', each.reason, each.message)}")
    if reason in GONE:
        return Seen(Failure.PREEMPTED, f"{where} {_joined(GONE[reason], message)}")
    state = container_state(pod)
    if state is not None and state.terminated is not None and state.terminated.reason in GONE:
        return Seen(Failure.PREEMPTED, f"{where} {GONE[state.terminated.reason]}")
    return None


def _waiting(pod: V1Pod, state: V1ContainerState | None, image: str, where: str, told: str) -> Seen:
    """It never ran: no node, no image, or it waits for something else."""
    waiting = state.waiting if state is not None else None
    if waiting is not None:
        what = _joined(waiting.reason or "waiting", waiting.message)
        if detect_pod_terminate_early_issues(pod):
            return Seen(
                Failure.CONFIG_INVALID,
                f"{where} cannot get the image '{image}': {what}; check the reference, and the pull secrets "
                "of its service account",
            )
        if waiting.reason in CANNOT_START:
            return Seen(Failure.CONFIG_INVALID, f"{where} cannot start: {what}")
        return Seen(Failure.INFRASTRUCTURE, f"{where} did not start in time, with image '{image}': {what}")
    for each in pod.status.conditions or []:
        if each.type == "PodScheduled" and each.status == "False":
            return Seen(
                Failure.INFRASTRUCTURE,
                f"{where} found no node in time: {_joined(each.reason or 'waiting', each.message)}",
            )
    return Seen(
        Failure.INFRASTRUCTURE, f"{where} is {pod.status.phase}: {told or 'it did not start in time'}"
    )


def _reason(pod: V1Pod) -> str:
    return _joined(pod.status.reason, pod.status.message)


def _joined(*words: str | None) -> str:
    return ": ".join(each for each in words if each)


def _failure_named(name: str) -> Failure | None:
    return Failure.__members__.get(name)
