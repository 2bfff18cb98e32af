"""The one place that knows the fields of TrainJob and JobSet: manifests out, status in our words.

Pinned to `trainer.kubeflow.org/v1alpha1` (Kubeflow Trainer 2) and `jobset.x-k8s.io/v1alpha2`. Trainer's own
way to change a pod from a TrainJob was renamed within v1alpha1 (podTemplateOverrides, runtimePatches), and a
field that an installed version does not know is dropped without a word. So the pods are written whole into a
TrainingRuntime of the job's name, whose template is the very JobSet that is made where Trainer is not
installed; the TrainJob only says how many. docs/decisions/0008-trainjob.md has the reasons.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtimes.pods import ATTEMPT

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True)
class Api:
    """Where a kind of object is found in Kubernetes' API, and the word it uses for success."""

    kind: str
    group: str
    version: str
    plural: str
    succeeded: str = ""

    @property
    def where(self) -> dict[str, str]:
        """The arguments that every call about it takes."""
        return {"group": self.group, "version": self.version, "plural": self.plural}


TRAINJOB = Api("TrainJob", "trainer.kubeflow.org", "v1alpha1", "trainjobs", "Complete")
JOBSET = Api("JobSet", "jobset.x-k8s.io", "v1alpha2", "jobsets", "Completed")
RUNTIME = Api("TrainingRuntime", "trainer.kubeflow.org", "v1alpha1", "trainingruntimes")

KINDS: Mapping[str, Api] = {api.kind: api for api in (TRAINJOB, JOBSET)}
"""What a step can run as, the first choice first."""

NODE = "node"
"""The name that Trainer expects of the replicated job and of its container."""

PORT = 29500
"""Where rank 0 waits for the others; the one Trainer sets too."""

JOB_OF_POD = "jobset.sigs.k8s.io/jobset-name"
INDEX_OF_POD = "batch.kubernetes.io/job-completion-index"
QUEUE = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True)
class Shape:
    """How large a job is.

    Attributes:
        nodes: Pods, one for each machine.
        processes: On each, one for each GPU.
        queue: Kueue's LocalQueue that admits all pods of the job together, or "" for none.
    """

    nodes: int
    processes: int
    queue: str


def job_name(plan: str, recipe: str, step: str) -> str:
    """The name of the job of a plan's step: the same for every attempt, so that there is never a second one.

    At most 42 characters: a pod's name adds the replicated job, two indices and five letters, and must stay
    a DNS label.

    Args:
        plan: Its URI, so that two installations with one namespace do not meet.
        recipe: For people.
        step: The step's name.
    """
    digest = hashlib.sha256(f"{plan} {step}".encode()).hexdigest()[:10]
    words = re.sub(r"[^a-z0-9]+", "-", f"{recipe[:14]}-{step[:14]}".lower()).strip("-")
    return f"p-{words}-{digest}" if words else f"p-{digest}"


def jobset(job: Object, pod: Object, name: str, namespace: str, shape: Shape, attempt: str) -> Object:
    """The JobSet of a step.

    Args:
        job: The JobSet's template, k8s/trainjob/jobset.yaml.
        pod: The pod's template, with image, command and environment; its first container trains.
        name: Of the job.
        namespace: Where it is made.
        shape: How large it is.
        attempt: Goes into the environment as PERENNIAL_ATTEMPT, and into an annotation.
    """
    made = _jobset(job, pod, shape)
    container = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [
        *container.get("env", []),
        {"name": "PERENNIAL_ATTEMPT", "value": attempt},
        {"name": "PET_NNODES", "value": str(shape.nodes)},
        {"name": "PET_NPROC_PER_NODE", "value": str(shape.processes)},
        {
            "name": "PET_NODE_RANK",
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_OF_POD}']"}},
        },
        {"name": "PET_MASTER_ADDR", "value": f"{name}-{NODE}-0-0.{name}"},
        {"name": "PET_MASTER_PORT", "value": str(PORT)},
    ]
    metadata = _metadata(pod, name, namespace, shape, attempt)
    spec = made["spec"] | {"suspend": bool(shape.queue)}
    return {"apiVersion": _version(JOBSET), "kind": JOBSET.kind, "metadata": metadata, "spec": spec}


def training_runtime(job: Object, pod: Object, name: str, namespace: str, shape: Shape) -> Object:
    """The TrainingRuntime of a step: everything about its pods but the attempt, so that retries share it.

    Trainer adds what torchrun reads (PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR ...) by itself.
    """
    template = _jobset(job, pod, shape)
    replicated = template["spec"]["replicatedJobs"][0]["template"]
    replicated["metadata"] = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    labels = dict(pod["metadata"]["labels"])
    return {
        "apiVersion": _version(RUNTIME),
        "kind": RUNTIME.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "mlPolicy": {"numNodes": shape.nodes, "torch": {"numProcPerNode": shape.processes}},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
        },
    }


def trainjob(pod: Object, name: str, namespace: str, shape: Shape, attempt: str) -> Object:
    """The TrainJob of a step, which makes the JobSet of `training_runtime`."""
    return {
        "apiVersion": _version(TRAINJOB),
        "kind": TRAINJOB.kind,
        "metadata": _metadata(pod, name, namespace, shape, attempt),
        "spec": {
            "runtimeRef": {"apiGroup": RUNTIME.group, "kind": RUNTIME.kind, "name": name},
            # With a queue it starts suspended and Kueue lets it go: where Kueue is missing it waits, and does
            # not take machines that nobody gave it.
            "suspend": bool(shape.queue),
            "trainer": {
                "numNodes": shape.nodes,
                "numProcPerNode": shape.processes,
                "env": [{"name": "PERENNIAL_ATTEMPT", "value": attempt}],
            },
        },
    }


def attempt_of(job: Object) -> str:
    """The attempt that a job was made for: who finds the job goes on with that attempt."""
    found: str = (job["metadata"].get("annotations") or {}).get(ATTEMPT, "")
    return found


def state_of(api: Api, job: Object) -> tuple[str, str]:
    """The state of a job (suspended, active, succeeded, failed) and what its controller says of it."""
    conditions = {each["type"]: each for each in (job.get("status") or {}).get("conditions", [])}

    def true(kind: str) -> bool:
        return str(conditions.get(kind, {}).get("status")) == "True"

    if true(api.succeeded):
        return "succeeded", _said(conditions[api.succeeded])
    if true("Failed"):
        return "failed", _said(conditions["Failed"])
    if job["spec"].get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(QUEUE)
        return "suspended", f"waits for room in the queue '{queue}'" if queue else "until it is resumed"
    return "active", ""


def nodes_of(api: Api, job: Object) -> int:
    """How many pods a job has."""
    if api is TRAINJOB:
        return int(job["spec"]["trainer"]["numNodes"])
    return int(job["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"])


def active_since(job: Object) -> str:
    """When its controller was last free to make pods: its creation, or the end of its last suspension."""
    created: str = job["metadata"]["creationTimestamp"]
    for each in (job.get("status") or {}).get("conditions", []):
        if each["type"] == "Suspended" and str(each["status"]) == "False":
            return max(created, each.get("lastTransitionTime") or created)
    return created


def index_of(pod: Object) -> int | None:
    """Which of the job's machines a pod stands for; 0 holds rank 0."""
    metadata = pod["metadata"]
    found = (metadata.get("labels") or {}).get(INDEX_OF_POD)
    found = found or (metadata.get("annotations") or {}).get(INDEX_OF_POD)
    return int(found) if found is not None else None


def by_index(pods: Sequence[Object]) -> list[Object]:
    """The pods, rank 0's first; where one was replaced, the younger one first."""
    young = sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True)
    return sorted(young, key=lambda pod: index_of(pod) or 0)


def _jobset(job: Object, pod: Object, shape: Shape) -> Object:
    made = copy.deepcopy(job)
    spec = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    template = {
        "metadata": {name: pod["metadata"].get(name, {}) for name in ("labels", "annotations")},
        "spec": pod["spec"],
    }
    spec |= {"parallelism": shape.nodes, "completions": shape.nodes, "template": copy.deepcopy(template)}
    return made


def _metadata(pod: Object, name: str, namespace: str, shape: Shape, attempt: str) -> Object:
    queue = {QUEUE: shape.queue} if shape.queue else {}
    return {
        "name": name,
        "namespace": namespace,
        "labels": {**pod["metadata"]["labels"], **queue},
        "annotations": {ATTEMPT: attempt},
    }


def _version(api: Api) -> str:
    return f"{api.group}/{api.version}"


def _said(condition: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, [condition.get("reason", ""), condition.get("message", "")]))
