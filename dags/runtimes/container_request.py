"""What a step's container is made of, and what its end says: plain data, without talking to the daemon.

Settings of the container runtime, from the environment of Airflow's workers. A value for each size of machine
is one value for all (`4g`) or a list of pairs (`cpu=4g,gpu=64g`); a size that the list leaves out has the
default.

- PERENNIAL_IMAGE_CPU, PERENNIAL_IMAGE_TRAINER: the images (required; `runtimes.steps.image`).
- PERENNIAL_CONTAINER_NETWORK: the network, which must reach the store and MLflow; default `bridge`.
- PERENNIAL_CONTAINER_SCRATCH: a volume's name or a folder of the daemon's machine, for working files and the
  cache of artefacts; default the volume `perennial-scratch`. The image's user must be able to write there.
- PERENNIAL_CONTAINER_SECRETS: a volume's name or a folder, mounted read-only at /run/secrets/perennial. The
  file `aws-credentials` in it is named to boto3. Default none: secrets never travel in the environment.
- PERENNIAL_CONTAINER_STORE: a volume's name or a folder, mounted at the path of a `file://` store, which must
  be the same path for Airflow; refused with any other store. Default none.
- PERENNIAL_CONTAINER_USER: numeric `user:group`, default `10001:10001`, the user of our images.
- PERENNIAL_CONTAINER_MEMORY, by size: bytes with the suffix k, m or g; default 0, which is no limit.
- PERENNIAL_CONTAINER_CPUS, by size: cores, as a decimal number; default 0, which is no limit.
- PERENNIAL_CONTAINER_GPUS, by size: how many, or `all`; default `cpu=0,gpu=1,large=all`.
- PERENNIAL_CONTAINER_SHM, by size: size of /dev/shm, which data loaders and NCCL use; default `1g`.
- PERENNIAL_CONTAINER_TMP, by size: size of /tmp, a tmpfs in memory; default `1g`.
- PERENNIAL_CONTAINER_PASS: names of further variables to hand on, by commas, e.g. `OMP_NUM_THREADS`. A name
  that looks like a secret's is refused.
- PERENNIAL_GRACE_SECONDS: between SIGTERM and SIGKILL, time for a checkpoint, default 120.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtimes.process import plan_of
from runtimes.steps import StepTask, image, settings
from runtimes.table import SIZES
from tasks.recipe.failures import ConfigInvalid, Failure, failure_of
from tasks.recipe.problems import did_you_mean
from tasks.recipe.run_names import run_name

SCRATCH = "/scratch"
SECRETS = "/run/secrets/perennial"
PIDS = 4096
"""Processes and threads of one container: a training has hundreds, a fork bomb more."""

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "PASSWORD", "CREDENTIAL")

NOT_EXECUTABLE = (126, 127)
"""Exit codes of a shell or a runtime that could not start the command at all: the image is the wrong one."""


@dataclass(frozen=True)
class Seen:
    """What a container's end looked like from outside.

    Attributes:
        failure: Its class, or None where it said that all went well.
        words: For people.
        killed_for_memory: The kernel killed it because of its memory limit.
    """

    failure: Failure | None
    words: str
    killed_for_memory: bool = False


def container_name(task: StepTask, run_id: str) -> str:
    """The one name that a step of a run has on a machine: two containers of one step cannot exist.

    Two installations may share a machine and a run's name; the store tells them apart.
    """
    store = hashlib.sha256(os.environ.get("PERENNIAL_STORE", "").encode()).hexdigest()[:8]
    return f"perennial-{store}-{run_name(task.recipe, run_id)}-{task.name}"


def arguments(task: StepTask, run_id: str, attempt: str) -> dict[str, Any]:
    """The arguments of `docker.containers.create` for an attempt of a step.

    Args:
        task: The step.
        run_id: Airflow's.
        attempt: An id of its own for the attempt, which `perennial outcome` knows it by.

    Raises:
        ConfigInvalid: A setting is missing or cannot be read; the message names it.
    """
    size = task.resources
    memory = amount("PERENNIAL_CONTAINER_MEMORY", size, "0")
    more: dict[str, Any] = {}
    if memory:
        more |= {"mem_limit": memory, "memswap_limit": memory}  # equal: what is over the limit does not swap
    cpus = cores(size)
    if cpus:
        more["nano_cpus"] = int(cpus * 1e9)
    count = gpus(size)
    if count:
        more["device_requests"] = [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]
    return {
        "image": image(task),
        "command": task.arguments(run_id),
        "name": container_name(task, run_id),
        "environment": environment(attempt) | {"PERENNIAL_IMAGE": image(task)},
        "labels": {
            "perennial.recipe": task.recipe,
            "perennial.run": run_name(task.recipe, run_id),
            "perennial.step": task.name,
            "perennial.team": task.owner,
            "perennial.attempt": attempt,
        },
        "network_mode": _setting("PERENNIAL_CONTAINER_NETWORK") or "bridge",
        "mounts": mounts(plan_of(task.recipe, run_id)),
        "read_only": True,
        "tmpfs": {"/tmp": f"rw,nosuid,nodev,mode=1777,size={amount('PERENNIAL_CONTAINER_TMP', size, '1g')}"},
        "shm_size": amount("PERENNIAL_CONTAINER_SHM", size, "1g"),
        "user": user(),
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": PIDS,
        **more,
    }


def environment(attempt: str) -> dict[str, str]:
    """The environment of a container: settings and names of files, never a secret.

    Raises:
        ConfigInvalid: PERENNIAL_CONTAINER_PASS names a variable that is not set or looks like a secret.
    """
    passed: dict[str, str] = {}
    for name in filter(None, (each.strip() for each in _setting("PERENNIAL_CONTAINER_PASS").split(","))):
        if any(word in name.upper() for word in SECRET_WORDS):
            raise ConfigInvalid(
                f"PERENNIAL_CONTAINER_PASS names '{name}', which looks like a secret: whoever may look at a "
                "container sees its environment. Put it into a file of PERENNIAL_CONTAINER_SECRETS"
            )
        if name not in os.environ:
            raise ConfigInvalid(f"PERENNIAL_CONTAINER_PASS names '{name}', which is not set for Airflow")
        passed[name] = os.environ[name]
    if _setting("PERENNIAL_CONTAINER_SECRETS"):
        passed["AWS_SHARED_CREDENTIALS_FILE"] = f"{SECRETS}/aws-credentials"
    return settings() | passed | {"PERENNIAL_ATTEMPT": attempt, "PERENNIAL_HOME": SCRATCH}


def mounts(plan: str) -> list[dict[str, Any]]:
    """Scratch, secrets and a local store, as the API writes mounts.

    Raises:
        ConfigInvalid: PERENNIAL_CONTAINER_STORE is set, but the store is no folder, or the other way round.
    """
    found = [_mount(_setting("PERENNIAL_CONTAINER_SCRATCH") or "perennial-scratch", SCRATCH)]
    secrets = _setting("PERENNIAL_CONTAINER_SECRETS")
    if secrets:
        found.append(_mount(secrets, SECRETS, read_only=True))
    local = _setting("PERENNIAL_CONTAINER_STORE")
    store = plan.partition("/runs/")[0]
    if local and not store.startswith("file://"):
        raise ConfigInvalid(
            f"PERENNIAL_CONTAINER_STORE mounts a folder, but the store is {store}: unset it, or set "
            "PERENNIAL_STORE to a file:// URI"
        )
    if store.startswith("file://"):
        if not local:
            raise ConfigInvalid(
                f"the store {store} is a folder, which a container cannot see: set PERENNIAL_CONTAINER_STORE "
                "to that folder or to its volume, or use an s3:// store"
            )
        found.append(_mount(local, store.removeprefix("file://")))
    return found


def amount(name: str, size: str, default: str) -> int:
    """A number of bytes, set by size of machine.

    Raises:
        ConfigInvalid: It is no number with the suffix k, m or g.
    """
    given = by_size(name, size, default)
    read = re.fullmatch(r"(\d+)([kmg]?)b?", given.lower())
    if read is None:
        raise ConfigInvalid(f"{name}: '{given}' is no size; write bytes with the suffix k, m or g, e.g. 8g")
    return int(read[1]) * UNITS[read[2]]


def cores(size: str) -> float:
    """How many cores a container may use; 0 is no limit.

    Raises:
        ConfigInvalid: PERENNIAL_CONTAINER_CPUS is no number.
    """
    given = by_size("PERENNIAL_CONTAINER_CPUS", size, "0")
    if not re.fullmatch(r"\d+(\.\d+)?", given):
        raise ConfigInvalid(f"PERENNIAL_CONTAINER_CPUS: '{given}' is no number of cores, such as 2 or 1.5")
    return float(given)


def gpus(size: str) -> int:
    """How many GPUs a container gets; -1 is all of them, as the API says it.

    Raises:
        ConfigInvalid: PERENNIAL_CONTAINER_GPUS is neither a number nor `all`.
    """
    given = by_size("PERENNIAL_CONTAINER_GPUS", size, {"cpu": "0", "gpu": "1", "large": "all"}[size])
    if given != "all" and not given.isdecimal():
        raise ConfigInvalid(f"PERENNIAL_CONTAINER_GPUS: '{given}' is neither a number nor 'all'")
    return -1 if given == "all" else int(given)


def by_size(name: str, size: str, default: str) -> str:
    """The value of a setting for a size of machine.

    Raises:
        ConfigInvalid: The setting names a size that there is not.
    """
    given = _setting(name)
    if "=" not in given:
        return given or default
    pairs = {
        key.strip(): value.strip() for key, _, value in (each.partition("=") for each in given.split(","))
    }
    for key in pairs:
        if key not in SIZES:
            raise ConfigInvalid(f"{name}: no step has the size '{key}'; {did_you_mean(key, SIZES)}")
    return pairs.get(size) or default


def user() -> str:
    """The numeric user and group of every container.

    Raises:
        ConfigInvalid: PERENNIAL_CONTAINER_USER is not of that form, or is root.
    """
    given = _setting("PERENNIAL_CONTAINER_USER") or "10001:10001"
    if not re.fullmatch(r"[1-9]\d*:\d+", given):
        raise ConfigInvalid(
            f"PERENNIAL_CONTAINER_USER: '{given}' is not a numeric user:group other than root's"
        )
    return given


def grace_seconds() -> int:
    """Between SIGTERM and SIGKILL, as PERENNIAL_GRACE_SECONDS says.

    Raises:
        ConfigInvalid: It is no number.
    """
    given = _setting("PERENNIAL_GRACE_SECONDS") or "120"
    try:
        return max(1, round(float(given)))
    except ValueError as error:
        raise ConfigInvalid(f"PERENNIAL_GRACE_SECONDS: '{given}' is no number of seconds") from error


def seen(state: Mapping[str, Any], reference: str) -> Seen:
    """What a container that has ended looks like from outside.

    Args:
        state: The `State` of its inspection.
        reference: The image's.
    """
    code = int(state["ExitCode"])
    if code == 0:
        return Seen(None, "the container ended with exit code 0")
    if state.get("OOMKilled"):
        return Seen(Failure.OUT_OF_MEMORY, f"the container was killed for memory (exit code {code})", True)
    if code in NOT_EXECUTABLE or state.get("Status") == "created":
        told = state.get("Error") or f"exit code {code}"
        return Seen(Failure.CONFIG_INVALID, f"the image {reference} could not start the step: {told}")
    words = f"the container ended with exit code {code}"
    return Seen(failure_of(code), f"{words}: {state['Error']}" if state.get("Error") else words)


def _mount(source: str, target: str, read_only: bool = False) -> dict[str, Any]:
    """A folder where the source is a path, else the volume of that name, which is made when it is missing."""
    kind = "bind" if source.startswith("/") else "volume"
    return {"Type": kind, "Source": source, "Target": target, "ReadOnly": read_only}


def _setting(name: str) -> str:
    return os.environ.get(name, "").strip()
