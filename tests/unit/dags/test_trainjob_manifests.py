"""The manifests of a training on several machines, as YAML in tests/golden/.

After a change that is meant: UPDATE_GOLDEN=1 python -m pytest tests/unit/dags/test_trainjob_manifests.py
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from runtimes.steps import StepTask
from runtimes.trainjob_api import (
    JOBSET,
    QUEUE,
    TRAINJOB,
    Object,
    Shape,
    attempt_of,
    job_name,
    jobset,
    training_runtime,
    trainjob,
)
from runtimes.trainjob_pod import GPU, job_template, pod_of, shape_of

from tasks.recipe.failures import ConfigInvalid
from tasks.runner.settings import Settings
from tasks.runner.step import work_directory

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
RUN = "manual__2026-11-21T12:29:26.123456+00:00"
STEP = StepTask("adapted", "pydocs", "pydocs", "ada", "pretrain", "large", "doc")
MERGE = dataclasses.replace(STEP, name="merged", stage="merge")
PLAN = "s3://models/perennial/runs/pydocs-manual__2026-11-21T122926.123456Z/plan.json"
NAME = job_name(PLAN, "pydocs", "adapted")
RESERVED = ("PET_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_")
"""Of environment variables that Trainer sets by itself and refuses from a TrainJob."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PERENNIAL_", "AWS_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PERENNIAL_STORE", "s3://models/perennial")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.perennial:5000")
    monkeypatch.setenv("PERENNIAL_IMAGE_TRAINER", f"registry.example/perennial/trainer@sha256:{'0' * 64}")
    monkeypatch.setenv("PERENNIAL_IMAGE_CPU", f"registry.example/perennial/cpu@sha256:{'1' * 64}")


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_NODES", "2")
    monkeypatch.setenv("PERENNIAL_SHARED_CLAIM", "perennial-shared")
    monkeypatch.setenv("PERENNIAL_QUEUE", "training")


def as_trainjob(step: StepTask = STEP) -> list[Object]:
    pod, shape = pod_of(step, RUN), shape_of(step)
    namespace = pod["metadata"]["namespace"]
    name = job_name(PLAN, step.recipe, step.name)
    return [
        training_runtime(job_template(), pod, name, namespace, shape),
        trainjob(pod, name, namespace, shape, "attempt-1"),
    ]


def as_jobset(step: StepTask = STEP) -> list[Object]:
    pod, shape = pod_of(step, RUN), shape_of(step)
    name = job_name(PLAN, step.recipe, step.name)
    return [jobset(job_template(), pod, name, pod["metadata"]["namespace"], shape, "attempt-1")]


def check_golden(name: str, made: list[Object]) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        plain = json.loads(json.dumps(made))  # no YAML anchors where objects are shared
        path.write_text(yaml.safe_dump_all(plain, sort_keys=False, width=110))
    assert list(yaml.safe_load_all(path.read_text())) == made


@pytest.mark.usefixtures("two_machines")
def test_the_trainjob_of_two_machines_in_a_queue() -> None:
    check_golden("trainjob_two_machines.yaml", as_trainjob())


def test_the_trainjob_of_one_machine_without_a_queue() -> None:
    check_golden("trainjob_one_machine.yaml", as_trainjob())


@pytest.mark.usefixtures("two_machines")
def test_the_jobset_of_two_machines_in_a_queue() -> None:
    check_golden("jobset_two_machines.yaml", as_jobset())


def test_the_jobset_of_a_step_that_does_not_train() -> None:
    check_golden("jobset_merge.yaml", as_jobset(MERGE))


def replicated(made: Object) -> Object:
    """The one replicated job of a JobSet or a TrainingRuntime."""
    spec = made["spec"]["template"]["spec"] if made["kind"] == "TrainingRuntime" else made["spec"]
    (found,) = spec["replicatedJobs"]
    return dict(found)


def job_of(made: Object) -> Object:
    template = replicated(made)["template"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": template["spec"]}


def container_of(made: Object) -> Object:
    (found,) = job_of(made)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def env_of(container: Object) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container["env"]}


def schema_errors(made: Object) -> list[str]:
    """What Kubernetes' own schema says against an object, unknown keys included."""
    try:
        kubernetes_validate.validate(made, "1.35", strict=True)
    except jsonschema.ValidationError as error:
        return [error.message]
    return []


@pytest.mark.usefixtures("two_machines")
@pytest.mark.parametrize("made", ["trainjob", "jobset", "merge"])
def test_the_job_inside_is_valid_kubernetes(made: str) -> None:
    objects = {"trainjob": as_trainjob, "jobset": as_jobset, "merge": lambda: as_jobset(MERGE)}[made]()
    job = job_of(objects[0])
    assert schema_errors(job) == []
    misspelt = job | {"spec": job["spec"] | {"paralelism": 2}}
    assert "paralelism" in schema_errors(misspelt)[0]


@pytest.mark.usefixtures("two_machines")
def test_trainer_and_jobset_run_the_same_pods() -> None:
    """But for what Trainer adds by itself, and the attempt, which its TrainJob carries."""
    runtime, small = as_trainjob()
    (whole,) = as_jobset()
    ours, theirs = container_of(runtime), container_of(whole)
    added = [each for each in theirs["env"] if each["name"].startswith(("PET_", "PERENNIAL_ATTEMPT"))]
    assert theirs["env"] == [*ours["env"], *added]
    assert {**theirs, "env": []} == {**ours, "env": []}
    assert small["spec"]["trainer"]["env"] == [{"name": "PERENNIAL_ATTEMPT", "value": "attempt-1"}]
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 2, "torch": {"numProcPerNode": 8}}
    assert not [each for each in env_of(ours) if each.startswith(RESERVED)]


@pytest.mark.usefixtures("two_machines")
def test_ranks_find_each_other_by_torchruns_own_variables() -> None:
    (made,) = as_jobset()
    env = {each["name"]: each for each in container_of(made)["env"]}
    assert env["PET_NNODES"]["value"] == "2"
    assert env["PET_NPROC_PER_NODE"]["value"] == "8" == container_of(made)["resources"]["limits"][GPU]
    assert env["PET_MASTER_ADDR"]["value"] == f"{NAME}-node-0-0.{NAME}"
    path = env["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert made["spec"]["network"]["publishNotReadyAddresses"] is True
    assert job_of(made)["spec"]["completionMode"] == "Indexed"


@pytest.mark.usefixtures("two_machines")
def test_the_command_is_an_argument_list_and_has_time_for_a_checkpoint() -> None:
    (made,) = as_jobset()
    container = container_of(made)
    assert container["command"] == [
        *("torchrun", "--shutdown-timeout=590", "--no-python"),
        *("perennial", "step", "--plan", PLAN, "--step", "adapted"),
    ]
    assert job_of(made)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 600


@pytest.mark.usefixtures("two_machines")
def test_p4_a_disruption_is_nobodys_failure() -> None:
    for made in (as_trainjob()[0], *as_jobset()):
        rules = job_of(made)["spec"]["podFailurePolicy"]["rules"]
        assert {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        } in rules
        assert job_of(made)["spec"]["backoffLimit"] == 0
        assert job_of(made)["spec"]["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.usefixtures("two_machines")
def test_p24_nothing_has_a_time_to_live() -> None:
    assert "ttlSecondsAfterFinished" not in json.dumps([*as_trainjob(), *as_jobset()])


@pytest.mark.usefixtures("two_machines")
def test_all_pods_start_together_when_kueue_says_so() -> None:
    for made in (as_trainjob()[1], *as_jobset()):
        assert made["metadata"]["labels"][QUEUE] == "training"
        assert made["spec"]["suspend"] is True
    assert QUEUE not in json.dumps(as_trainjob()[0])


def test_without_a_queue_nothing_waits_for_one() -> None:
    for made in (as_trainjob()[1], *as_jobset()):
        assert QUEUE not in made["metadata"]["labels"]
        assert made["spec"]["suspend"] is False


@pytest.mark.usefixtures("two_machines")
def test_p25_every_pod_says_whose_it_is() -> None:
    for made in (as_trainjob()[0], *as_jobset()):
        found = job_of(made)["spec"]["template"]["metadata"]["labels"]
        assert found["perennial/recipe"] == "pydocs"
        assert found["perennial/run"] == "pydocs-manual__2026-11-21T122926.123456Z"
        assert found["perennial/step"] == "adapted"
        assert found["perennial/team"] == "ada"


@pytest.mark.usefixtures("two_machines")
def test_pods_are_restricted_and_hold_no_secret_in_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    for made in (*as_trainjob(), *as_jobset()):
        assert "hush" not in json.dumps(made)
    for made in (as_trainjob()[0], *as_jobset()):
        spec, container = job_of(made)["spec"]["template"]["spec"], container_of(made)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "/dev/shm" in {each["mountPath"] for each in container["volumeMounts"]}


@pytest.mark.usefixtures("two_machines")
def test_p6_machines_share_the_directory_that_checkpoints_are_gathered_in() -> None:
    (made,) = as_jobset()
    container, spec = container_of(made), job_of(made)["spec"]["template"]["spec"]
    settings = Settings(Path(env_of(container)["PERENNIAL_HOME"]), "s3://bucket/store", "")
    place = str(work_directory(settings, "f" * 64).parent)
    claim = {"name": "shared", "persistentVolumeClaim": {"claimName": "perennial-shared"}}
    assert claim in spec["volumes"]
    assert {"name": "shared", "mountPath": place} in container["volumeMounts"]
    # What nobody would remove from a disk that all share, the cache of artefacts, is on the pod's own.
    assert {"name": "scratch", "mountPath": str(settings.home)} in container["volumeMounts"]
    (merge,) = as_jobset(MERGE)
    assert "persistentVolumeClaim" not in json.dumps(merge)


def test_p6_several_machines_without_a_shared_directory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_NODES", "2")
    with pytest.raises(ConfigInvalid, match=r"PERENNIAL_SHARED_CLAIM.*ReadWriteMany"):
        shape_of(STEP)


@pytest.mark.parametrize(("name", "value"), [("PERENNIAL_NODES", "0"), ("PERENNIAL_GPUS_PER_NODE", "many")])
def test_a_setting_that_is_no_number_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigInvalid, match=f"{name} is '{value}'"):
        shape_of(STEP)


@pytest.mark.parametrize(("gpus", "processes"), [("4", 4), ("0", 1)])
def test_gpus_are_processes(gpus: str, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_GPUS_PER_NODE", gpus)
    assert shape_of(STEP) == Shape(1, processes, "")
    limits = container_of(as_jobset()[0])["resources"]["limits"]
    assert limits.get(GPU, "0") == gpus


@pytest.mark.usefixtures("two_machines")
def test_a_step_that_does_not_train_is_one_process() -> None:
    """Several ranks of a merge would each do all of it."""
    (made,) = as_jobset(MERGE)
    assert shape_of(MERGE).nodes == shape_of(MERGE).processes == 1
    assert container_of(made)["command"][0] == "perennial"


def test_the_attempt_is_found_on_the_job() -> None:
    assert attempt_of(as_trainjob()[1]) == "attempt-1" == attempt_of(as_jobset()[0])


@pytest.mark.parametrize(
    "names",
    [
        (PLAN, "pydocs", "adapted"),
        (PLAN, "a-recipe-with-a-very-long-name", "a_step_with_a_very_long_name"),
        (PLAN, "Größe", "7th"),
        (PLAN, "-", "_"),
    ],
)
def test_names_are_labels_of_dns_and_leave_room_for_those_of_pods(names: tuple[str, str, str]) -> None:
    name = job_name(*names)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-node-0-9999-abcde") <= 63


def test_p1_a_step_has_one_name_in_a_run_and_no_other_has_it() -> None:
    """The API server then refuses a second job of the step, whoever asks for it."""
    assert job_name(PLAN, "pydocs", "adapted") == NAME
    elsewhere = PLAN.replace("models", "others")
    others = [(PLAN, "pydocs", "tuned"), (PLAN, "code", "adapted"), (elsewhere, "pydocs", "adapted")]
    assert len({NAME, *(job_name(*each) for each in others)}) == 4


def test_the_adapter_is_pinned_to_the_versions_it_was_written_for() -> None:
    runtime, small = as_trainjob()
    assert small["apiVersion"] == runtime["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert as_jobset()[0]["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert (TRAINJOB.succeeded, JOBSET.succeeded) == ("Complete", "Completed")
