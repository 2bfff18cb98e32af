"""The pods of a job: k8s/pod_templates/large.yaml with a step's image, command and settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from runtimes import steps
from runtimes.kubernetes import environment, template_of
from runtimes.pods import labels
from runtimes.process import ROOT
from runtimes.steps import TRAINING, StepTask
from runtimes.trainjob_api import NODE, Object, Shape
from tasks.recipe.failures import ConfigInvalid

GPU = "nvidia.com/gpu"

SHARED = "work"
"""The folder of PERENNIAL_HOME that is the claim which all machines share: a step gathers the parts of its
checkpoints there, and removes them when it is done. The rest, the cache above all, is each pod's own."""


def shape_of(task: StepTask) -> Shape:
    """How large the job of a step is. A step that does not train runs as one process on one machine.

    Raises:
        ConfigInvalid: A setting is no number, or more than one machine has no claim to share.
    """
    queue = os.environ.get("PERENNIAL_QUEUE", "")
    if task.stage not in TRAINING:
        return Shape(1, 1, queue)
    nodes = _number("PERENNIAL_NODES", 1, at_least=1)
    if nodes > 1 and not os.environ.get("PERENNIAL_SHARED_CLAIM"):
        raise ConfigInvalid(
            f"PERENNIAL_NODES is {nodes}, and PERENNIAL_SHARED_CLAIM does not say which volume the machines "
            "share: every rank writes its part of a checkpoint there; make a PersistentVolumeClaim with "
            "accessModes: [ReadWriteMany] and give its name"
        )
    limits = template_of("large")["spec"]["containers"][0]["resources"]["limits"]
    return Shape(nodes, max(1, _gpus(limits)), queue)


def pod_of(task: StepTask, run_id: str) -> Object:
    """The pod of every rank.

    Raises:
        ConfigInvalid: The image is not set, or a setting or the template does not fit.
    """
    pod = template_of("large")
    metadata, spec = pod["metadata"], pod["spec"]
    metadata["labels"] = {**metadata.get("labels", {}), **labels(task, run_id)}
    container = spec["containers"][0]
    container |= {"name": NODE, "image": steps.image(task)}
    # What the kernel kills cannot write its last words: the kubelet then keeps the log's last lines.
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    command = ["perennial", *task.arguments(run_id)]
    if task.stage in TRAINING:
        # torchrun kills its ranks 30 s after SIGTERM unless told otherwise; a checkpoint may need longer.
        grace = max(10, int(spec["terminationGracePeriodSeconds"]) - 10)
        command = ["torchrun", f"--shutdown-timeout={grace}", "--no-python", *command]
        _set_gpus(container["resources"])
    container["command"] = command
    container.pop("args", None)
    env = {each["name"]: each for each in container.get("env", [])}
    given = environment("") | {"PERENNIAL_IMAGE": container["image"]}
    del given["PERENNIAL_ATTEMPT"]  # the pods' template is the same for every attempt
    env |= {name: {"name": name, "value": value} for name, value in given.items()}
    claim = os.environ.get("PERENNIAL_SHARED_CLAIM")
    if claim and task.stage in TRAINING:
        home = env["PERENNIAL_HOME"]["value"] if "PERENNIAL_HOME" in env else "/scratch"  # the image's
        spec["volumes"].append({"name": "shared", "persistentVolumeClaim": {"claimName": claim}})
        container["volumeMounts"].append({"name": "shared", "mountPath": f"{home}/{SHARED}"})
    container["env"] = list(env.values())
    return pod


def job_template() -> Object:
    """The JobSet's template, without pods: it lies beside the folder of the pods' templates.

    Raises:
        ConfigInvalid: It is not there.
    """
    folder = Path(os.environ.get("PERENNIAL_POD_TEMPLATES") or ROOT / "k8s" / "pod_templates")
    path = folder.parent / "trainjob" / "jobset.yaml"
    if not path.is_file():
        raise ConfigInvalid(
            f"{path}: there is no template of the job; it comes with the pods' templates, beside "
            "the folder that PERENNIAL_POD_TEMPLATES names"
        )
    found: Object = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def _set_gpus(resources: Mapping[str, dict[str, str]]) -> None:
    for each in resources.values():
        gpus = _gpus(each)
        each.pop(GPU, None)
        if gpus:
            each[GPU] = str(gpus)


def _gpus(resources: Mapping[str, str]) -> int:
    """PERENNIAL_GPUS_PER_NODE, or what the template asks for."""
    return _number("PERENNIAL_GPUS_PER_NODE", int(resources.get(GPU, 0)), at_least=0)


def _number(name: str, default: int, *, at_least: int) -> int:
    given = os.environ.get(name)
    if not given:
        return default
    if not given.isdecimal() or int(given) < at_least:
        raise ConfigInvalid(f"{name} is '{given}'; expected a whole number, {at_least} or more")
    return int(given)
