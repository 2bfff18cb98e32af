"""The pod that the kubernetes runtime makes, run by `podman kube play`: no cluster is needed to see that its
image, arguments, environment, mounts and security context work together.

CHANGED says all that is different from what a cluster gets. What podman 4.3 takes and does nothing with is
not shown here: fsGroup, sizeLimit, defaultMode, priorityClassName, serviceAccountName, ephemeral-storage,
terminationGracePeriodSeconds, terminationMessagePolicy. Pod Security Standards, quotas and network policies
are the cluster's.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tasks.recipe.run_names import run_name
from tests.containers import stack, tools
from tests.containers.test_cpu_image import NETWORK, RECIPE, Services, outputs
from tests.containers.test_cpu_image import services as services

RUN_ID = "manual__2026-11-21T12:29:26.123456+00:00"
STEP = "checked"
GOLDEN = tools.ROOT / "tests" / "golden" / "pod_cpu.yaml"

CHANGED: Mapping[str, str] = {
    "home": "podman copies the image's folder, which is root's, into an emptyDir, and knows no fsGroup",
    "shm": "podman knows no emptyDir in memory: here it is a folder of a tmpfs",
    "store-credentials": "podman leaves out a secret that is optional, and mounts any other in base64",
    "mlflow-credentials": "podman leaves out a secret that is optional, and mounts any other in base64",
}
"""Volume of the pod -> why podman 4.3 gets a folder of the machine instead, made as the kubelet makes it."""

SECRETS: Mapping[str, str] = {
    "store-credentials": stack.KEYS,
    "mlflow-credentials": "[mlflow]\nmlflow_tracking_username = perennial\n"
    f"mlflow_tracking_password = {stack.PASSWORD}\n",
}
"""Volume -> the text of its one file, `credentials`."""

NOT_FOR_PODS: Mapping[str, str] = {
    "HF_TOKEN": "hf_notforpods",
    "MLFLOW_TRACKING_PASSWORD": "password-not-for-pods",
}
"""What Airflow's worker has in its environment while it makes the pod."""

PROBE = """
import json, os
def written(place):
    try:
        open(os.path.join(place, "probe"), "w").close()
        return True
    except OSError:
        return False
mounts = [line.split() for line in open("/proc/mounts")]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "status": {key: status[key].strip() for key in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")},
    "mounts": {place: [kind, options.split(",")[0]] for _, place, kind, options, *_ in mounts},
    "written": {place: written(place) for place in PLACES},
    "secrets": {place: open(place).read() for place in SECRETS},
    "env": dict(os.environ),
}))
"""
WRITABLE = ("/tmp", "/home/perennial", "/scratch", "/dev/shm")
READ_ONLY = ("/", "/opt/venv", "/secrets/store", "/home/perennial/.mlflow")


@dataclass(frozen=True)
class Played:
    """A pod that ran to its end.

    Attributes:
        pod: As the runtime made it.
        name: Its name.
        code: The exit code of its container.
        inspected: What podman says of the container.
        log: What it printed.
    """

    pod: dict[str, Any]
    name: str
    code: int
    inspected: dict[str, Any]
    log: str


@pytest.fixture(scope="module")
def folder(folder: Path) -> Path:
    """A folder of this file's own."""
    made = folder / "kube-play"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def worker(services: Services, cpu_image: str, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """The environment of Airflow's worker, with the plan of the run frozen in the store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tools.ROOT / "dags"))
        for name, value in services.env.items():
            patch.setenv(name, value)
        patch.setenv("AIRFLOW_HOME", str(folder / "airflow"))
        patch.setenv("PERENNIAL_IMAGE_CPU", cpu_image)
        run = run_name("pydocs", RUN_ID)
        tools.run(
            [sys.executable, "-m", "tasks.cli", "plan", str(RECIPE), "--freeze", "--run", run], services.env
        )
        yield patch


def task() -> Any:
    """The step as dags/train.py hands it to its runtime."""
    from runtimes.steps import StepTask

    step = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["steps"][STEP]
    return StepTask(STEP, "pydocs", "pydocs", "Team Language", step["stage"], "cpu", "doc")


def made_pod() -> dict[str, Any]:
    """The pod that the operator would send, as the API gets it."""
    from kubernetes.client import ApiClient
    from runtimes import kubernetes

    class Ti:
        dag_id, task_id, run_id, map_index, try_number = "train__pydocs", STEP, RUN_ID, -1, 1

    operator = kubernetes.make(task())
    operator._fill_in(RUN_ID)
    context: Any = {"ti": Ti(), "run_id": RUN_ID, "dag": None}
    found: dict[str, Any] = ApiClient().sanitize_for_serialization(
        operator.build_pod_request_obj(context, dry_run=True)
    )
    return found


def for_podman(pod: dict[str, Any], folders: Mapping[str, Path]) -> dict[str, Any]:
    """The pod with other volumes.

    Args:
        pod: As the runtime made it.
        folders: Volume -> the folder that takes its place.
    """
    changed = copy.deepcopy(pod)
    changed["spec"]["volumes"] = [
        {"name": volume["name"], "hostPath": {"path": str(folders[volume["name"]]), "type": "Directory"}}
        if volume["name"] in folders
        else volume
        for volume in pod["spec"]["volumes"]
    ]
    return changed


def play(pod: dict[str, Any], folder: Path, command: list[str] | None = None) -> Played:
    """Play a pod to its end and remove it.

    Args:
        pod: As the runtime made it.
        folder: For the YAML and the volumes.
        command: Instead of the pod's arguments and the image's entry point.
    """
    name = pod["metadata"]["name"]
    with (
        tempfile.TemporaryDirectory(dir=folder) as disk,
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
    ):
        folders = {each: Path(memory if each == "shm" else disk) / each for each in CHANGED}
        for each, place in folders.items():
            place.mkdir()
            place.chmod(0o2777)
            if each in SECRETS:
                file = place / "credentials"
                file.write_text(SECRETS[each])
                os.chown(file, 0, 10001)
                file.chmod(0o440)
        played = for_podman(pod, folders)
        if command is not None:
            played["spec"]["containers"][0] |= {"command": command, "args": []}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(played), encoding="utf-8")
        try:
            tools.podman("kube", "play", "--network", NETWORK, str(path))
            code = int(tools.podman("wait", f"{name}-step").splitlines()[-1])
            inspected = json.loads(tools.podman("inspect", f"{name}-step"))[0]
            return Played(pod, name, code, inspected, tools.podman("logs", f"{name}-step"))
        finally:
            tools.podman("kube", "down", str(path), check=False)


@pytest.fixture(scope="module")
def pod(worker: pytest.MonkeyPatch) -> dict[str, Any]:
    """The step's pod, made by a worker that holds secrets of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NOT_FOR_PODS.items():
            patch.setenv(name, value)
        return made_pod()


@pytest.fixture(scope="module")
def played(pod: dict[str, Any], folder: Path) -> Played:
    return play(pod, folder)


def test_it_is_the_golden_pod_but_for_the_image_the_run_and_the_addresses(pod: dict[str, Any]) -> None:
    golden, made = yaml.safe_load(GOLDEN.read_text(encoding="utf-8")), copy.deepcopy(pod)
    for each in (golden, made):
        (container,) = each["spec"]["containers"]
        container["env"] = [entry["name"] for entry in container["env"]]
        del container["image"], container["args"]
    assert made["spec"] == golden["spec"]


def test_podman_gets_the_same_pod_but_for_the_volumes_of_the_table(pod: dict[str, Any]) -> None:
    played = for_podman(pod, {name: Path("/somewhere") for name in CHANGED})
    pairs = zip(pod["spec"]["volumes"], played["spec"]["volumes"], strict=True)
    assert {before["name"] for before, after in pairs if before != after} == set(CHANGED)
    played["spec"]["volumes"] = pod["spec"]["volumes"]
    assert played == pod


def test_the_step_is_done_and_its_outputs_are_those_of_a_process(
    played: Played, worker: pytest.MonkeyPatch, services: Services, folder: Path
) -> None:
    assert played.code == 0, played.log
    attempt = played.pod["metadata"]["annotations"]["perennial/attempt"]
    from runtimes import steps

    # The operator's own end: it raises where the store has no record of the step.
    steps.conclude(task(), RUN_ID, attempt, None, f"podman: exit code {played.code}")

    run = run_name("pydocs", RUN_ID)
    client = boto3.Session("perennial", stack.PASSWORD, region_name="us-east-1").client(
        "s3", endpoint_url=services.env["AWS_ENDPOINT_URL"]
    )
    key = f"store/runs/{run}/steps/{STEP}.json"
    of_pod = client.get_object(Bucket="perennial", Key=key)["Body"].read().decode()

    local = services.env | {
        "PERENNIAL_HOME": str(folder / "local"),
        "PERENNIAL_STORE": f"file://{folder}/local/store",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/local/mlflow.db",
    }
    tools.run([sys.executable, "-m", "tasks.cli", "plan", str(RECIPE), "--freeze", "--run", run], local)
    plan = f"{local['PERENNIAL_STORE']}/runs/{run}/plan.json"
    tools.run([sys.executable, "-m", "tasks.cli", "step", "--plan", plan, "--step", STEP], local)
    of_process = (folder / "local" / "store" / "runs" / run / "steps" / f"{STEP}.json").read_text()
    assert outputs(of_pod) == outputs(of_process)
    assert json.loads(of_pod)["fingerprint"] == json.loads(of_process)["fingerprint"]
    print(f"pod {played.name}: exit code {played.code}\n{json.dumps(outputs(of_pod), indent=1)}")


def test_podman_ran_it_as_the_pod_says(played: Played, cpu_image: str) -> None:
    of_pod, said = played.pod["spec"]["containers"][0], played.inspected
    assert said["ImageName"] == cpu_image
    assert [said["Path"], *said["Args"]] == ["/usr/bin/tini", "--", "perennial", *of_pod["args"]]
    assert said["Config"]["User"] == "10001:10001"
    assert said["HostConfig"]["ReadonlyRootfs"] is True
    assert not said["EffectiveCaps"]
    assert not said["BoundingCaps"]
    assert "no-new-privileges" in said["HostConfig"]["SecurityOpt"]
    assert said["HostConfig"]["Memory"] == 8 * 2**30
    assert said["HostConfig"]["NanoCpus"] == 2 * 10**9
    assert said["HostConfig"]["RestartPolicy"]["Name"] == "no"
    mounts = {each["Destination"]: each["RW"] for each in said["Mounts"]}
    assert mounts == {each["mountPath"]: not each.get("readOnly") for each in of_pod["volumeMounts"]}
    env = dict(entry.split("=", 1) for entry in said["Config"]["Env"])
    assert {each["name"]: each["value"] for each in of_pod["env"]}.items() <= env.items()
    assert env["PERENNIAL_ATTEMPT"] == played.pod["metadata"]["annotations"]["perennial/attempt"]


def test_no_secret_is_in_the_pod_its_environment_or_its_log(played: Played) -> None:
    of_pod = json.dumps(played.pod)
    told = of_pod + json.dumps(played.inspected) + played.log
    for value in (stack.PASSWORD, *NOT_FOR_PODS.values()):
        assert value not in told
    assert not set(NOT_FOR_PODS) & {entry.partition("=")[0] for entry in played.inspected["Config"]["Env"]}


def test_from_inside_it_is_a_user_without_rights_with_the_mounts_it_needs(
    pod: dict[str, Any], folder: Path
) -> None:
    """The same pod with another command: what a step would see."""
    files = {
        "/secrets/store/credentials": SECRETS["store-credentials"],
        "/home/perennial/.mlflow/credentials": SECRETS["mlflow-credentials"],
    }
    files_at = [os.path.dirname(path) for path in files]
    code = f"PLACES = {(*WRITABLE, *READ_ONLY)!r}\nSECRETS = {tuple(files)!r}\n{PROBE}"
    probed = play(pod, folder, command=["python", "-c", code])
    assert probed.code == 0, probed.log
    seen = json.loads(probed.log.splitlines()[-1])
    print(json.dumps({key: seen[key] for key in ("ids", "status", "written")}, indent=1))
    assert seen["ids"] == [10001, 10001]
    nothing = "0" * 16
    assert seen["status"] == {
        "CapEff": nothing,
        "CapPrm": nothing,
        "CapBnd": nothing,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    assert seen["written"] == dict.fromkeys(WRITABLE, True) | dict.fromkeys(READ_ONLY, False)
    assert [seen["mounts"][place][1] for place in ("/", *files_at)] == ["ro"] * 3
    assert seen["mounts"]["/dev/shm"] == ["tmpfs", "rw"]
    assert seen["secrets"] == files
    assert seen["env"]["PERENNIAL_ATTEMPT"] == pod["metadata"]["annotations"]["perennial/attempt"]
    assert not [value for value in seen["env"].values() if stack.PASSWORD in value]
