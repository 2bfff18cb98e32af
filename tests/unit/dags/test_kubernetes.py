"""The pod of a step, its names and labels, and what its status means. No cluster, no API.

The golden pods: GOLDEN=write writes them anew; look at the difference before you commit it.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from airflow.sdk import DAG, RetryAction
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import (
    ApiClient,
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStateWaiting,
    V1ContainerStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodCondition,
    V1PodSpec,
    V1PodStatus,
)
from runtimes import kubernetes
from runtimes.failures import RETRIES, RETRIES_OF_PODS, RULES, RetryByClass, StepFailed
from runtimes.pods import CONTAINER, GONE, LONGEST, ended, label_value, labels, last_words, observe, pod_name
from runtimes.steps import StepTask
from runtimes.table import make_step

from tasks.recipe.failures import ConfigInvalid, Failure

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden"
RUN = "manual__2026-11-21T12:29:26.123456+00:00"
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
SIZES = ("cpu", "gpu", "large")


def step(resources: str, **other: str) -> StepTask:
    stage = "evaluate" if resources == "cpu" else "pretrain"
    given: dict[str, Any] = {
        "name": "adapted",
        "recipe": "pydocs",
        "model": "pydocs",
        "owner": "Team Language",
    } | other
    return StepTask(stage=stage, resources=resources, doc_md="doc", **given)


class Ti:
    dag_id, task_id, run_id, map_index, try_number = "train__pydocs", "adapted", RUN, -1, 1


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PERENNIAL_", "AWS_", "MLFLOW_", "KUBE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PERENNIAL_STORE", "s3://perennial/store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.perennial.svc.cluster.local:5000")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.perennial.svc.cluster.local:9000")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("PERENNIAL_IMAGE_CPU", "registry.example/perennial/cpu@sha256:" + "c" * 64)
    monkeypatch.setenv("PERENNIAL_IMAGE_TRAINER", "registry.example/perennial/trainer@sha256:" + "7" * 64)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0xADA))


def request(task: StepTask) -> dict[str, Any]:
    """The pod that the provider would send, as the API gets it."""
    operator = kubernetes.make(task)
    operator._fill_in(RUN)
    context: Any = {"ti": Ti(), "run_id": RUN, "dag": None}
    made = operator.build_pod_request_obj(context, dry_run=True)
    found: dict[str, Any] = ApiClient().sanitize_for_serialization(made)
    del found["metadata"]["labels"]["airflow_version"]
    return found


# ---- golden pods


@pytest.mark.parametrize("resources", SIZES)
def test_the_pod_of_each_size_is_the_golden_one(resources: str, settings: None) -> None:
    path = GOLDEN / f"pod_{resources}.yaml"
    made = request(step(resources))
    if os.environ.get("GOLDEN") == "write":
        path.write_text(yaml.safe_dump(made, sort_keys=True), encoding="utf-8")
    assert made == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("resources", SIZES)
def test_the_pod_is_valid_by_kubernetes_schema(resources: str, settings: None) -> None:
    made = request(step(resources))
    kubernetes_validate.validate(made, "1.33", strict=True)
    made["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, "1.33", strict=True)


@pytest.mark.parametrize("resources", SIZES)
def test_the_pod_meets_the_restricted_standard(resources: str, settings: None) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and read-only."""
    spec = request(step(resources))["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    allowed = {"name", "emptyDir", "ephemeral", "secret", "configMap", "projected", "persistentVolumeClaim"}
    assert {key for volume in spec["volumes"] for key in volume} <= allowed
    assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in spec.items() if value}
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("resources", SIZES)
def test_everything_a_step_writes_to_is_writable(resources: str, settings: None) -> None:
    spec = request(step(resources))["spec"]
    (container,) = spec["containers"]
    secrets = {volume["name"] for volume in spec["volumes"] if "secret" in volume}
    writable = [each["mountPath"] for each in container["volumeMounts"] if each["name"] not in secrets]
    env = {each["name"]: each["value"] for each in container["env"]}
    places = ("HOME", "TMPDIR", "PERENNIAL_HOME", "HF_HOME", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
    for name in places:
        assert any(env[name] == path or env[name].startswith(f"{path}/") for path in writable), name
    assert "/dev/shm" in writable


@pytest.mark.parametrize("resources", SIZES)
def test_no_secret_stands_in_the_environment(
    resources: str, settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "HF_TOKEN",
        "AIRFLOW__CORE__FERNET_KEY",
    ):
        monkeypatch.setenv(name, "hunter2")
    made = request(step(resources))
    assert "hunter2" not in json.dumps(made)
    assert all("value" in each for each in made["spec"]["containers"][0]["env"])


def test_p2_no_sidecar_and_nothing_to_pull_beside_the_image(settings: None) -> None:
    spec = request(step("gpu"))["spec"]
    assert [each["name"] for each in spec["containers"]] == [CONTAINER]
    assert not spec.get("initContainers")


def test_p26_p27_the_container_runs_the_command_of_every_runtime(settings: None) -> None:
    """The same words as a process of this machine gets; no code or data of Airflow's travels with them."""
    task = step("gpu")
    (container,) = request(task)["spec"]["containers"]
    assert container["args"] == task.arguments(RUN)
    assert not container.get("command")  # the image's entry point


def test_p17_pods_take_their_place_in_the_pool() -> None:
    assert kubernetes.make(step("gpu")).pool == "gpu"
    assert kubernetes.make(step("cpu")).pool == "default_pool"


def test_requests_equal_limits(settings: None) -> None:
    for resources in SIZES:
        given = request(step(resources))["spec"]["containers"][0]["resources"]
        assert given["requests"] == given["limits"]


def test_a_checkpoint_has_time(settings: None) -> None:
    operator = kubernetes.make(step("large"))
    operator._fill_in(RUN)
    assert operator.termination_grace_period == 600
    assert operator.schedule_timeout_seconds == 86400
    assert operator.startup_timeout_seconds == 1800


def test_the_trigger_is_told_that_it_runs_in_the_cluster(
    settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    operator = kubernetes.make(step("cpu"))
    operator._fill_in(RUN)
    assert operator.in_cluster is True


def test_a_template_folder_of_ones_own(
    settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_POD_TEMPLATES", str(tmp_path))
    with pytest.raises(
        ConfigInvalid, match=r"cpu\.yaml: there is no pod template for steps of the size 'cpu'"
    ):
        kubernetes.template_of("cpu")
    (tmp_path / "cpu.yaml").write_text("metadata: {namespace: mine}\nspec: {}\n")
    with pytest.raises(ConfigInvalid, match="perennial/schedule-seconds is missing"):
        kubernetes.template_of("cpu")


@pytest.mark.parametrize("given", ["often", "0", "-1", "nan", "inf"])
def test_a_pause_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_POLL_SECONDS", given)
    with pytest.raises(ConfigInvalid, match=f"PERENNIAL_POLL_SECONDS is '{given}'"):
        kubernetes.make(step("cpu"))


def test_p14_the_dag_is_the_same_at_every_parse(settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that changes, an image or a random name, is part of it."""
    monkeypatch.setenv("PERENNIAL_RUNTIME", "kubernetes")

    def parsed() -> str:
        with DAG("train__pydocs", schedule=None) as dag:
            make_step(step("gpu"))
        return json.dumps(DagSerialization.to_dict(dag), sort_keys=True, default=str)

    before = parsed()
    monkeypatch.setenv("PERENNIAL_IMAGE_TRAINER", "registry.example/perennial/trainer@sha256:" + "8" * 64)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0xBEE))
    assert parsed() == before


# ---- P4: retries by class


class State(dict[str, Any]):
    """Airflow's task state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def test_p4_each_class_has_its_own_count() -> None:
    context: Any = {"task_state_store": State()}
    policy, tries = RetryByClass(), iter(range(1, 1000))

    def again(failure: Failure) -> RetryAction:
        error = StepFailed("adapted", failure, "why")
        return policy.evaluate(error, next(tries), RETRIES_OF_PODS, context).action

    for _ in range(50):
        assert again(Failure.PREEMPTED) is RetryAction.RETRY
    for _ in range(RULES[Failure.INFRASTRUCTURE].retries):
        assert again(Failure.INFRASTRUCTURE) is RetryAction.RETRY
    assert again(Failure.INFRASTRUCTURE) is RetryAction.FAIL
    assert again(Failure.OUT_OF_MEMORY) is RetryAction.RETRY
    assert again(Failure.OUT_OF_MEMORY) is RetryAction.FAIL


def test_p4_airflows_own_limit_never_comes_first() -> None:
    assert kubernetes.make(step("gpu")).retries == RETRIES_OF_PODS
    assert sum(rule.retries for rule in RULES.values()) < RETRIES_OF_PODS


def test_p4_what_has_no_class_is_not_tried_for_ever() -> None:
    context: Any = {"task_state_store": State()}
    found = [RetryByClass().evaluate(OSError("x"), 1, 9, context).action for _ in range(RETRIES + 1)]
    assert found == [RetryAction.DEFAULT] * RETRIES + [RetryAction.FAIL]


# ---- P25: labels and names


@pytest.mark.parametrize(
    "text",
    [
        "pydocs",
        "Team Language",
        "équipe données",
        "a/b:c@d",
        "-leading.and.trailing-",
        "x" * 200,
        "!!!",
        "",
        f"pydocs-{RUN}",
    ],
)
def test_p25_every_label_is_valid(text: str) -> None:
    value = label_value(text)
    assert len(value) <= LONGEST
    assert LABEL.fullmatch(value)
    assert bool(value) == bool(text)


def test_p25_different_texts_stay_different() -> None:
    texts = ["team a", "team-a", "team/a", "x" * 200, "x" * 201, "!!!", "???"]
    assert len({label_value(text) for text in texts}) == len(texts)


def test_p25_a_pod_says_recipe_run_step_and_team() -> None:
    found = labels(step("gpu"), RUN)
    assert found["perennial/recipe"] == "pydocs"
    assert found["perennial/step"] == "adapted"
    assert found["perennial/run"].startswith("pydocs-manual__2026-11-21T122926")
    assert found["perennial/team"].startswith("Team-Language")


def test_a_step_of_a_run_has_one_name(settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    name = pod_name(step("gpu"), RUN)
    assert name == pod_name(step("gpu"), RUN)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)
    others = {
        pod_name(step("gpu", name="tuned"), RUN),
        pod_name(step("gpu", recipe="other"), RUN),
        pod_name(step("gpu"), "manual__2026-11-22T12:29:26.123456+00:00"),
    }
    monkeypatch.setenv("PERENNIAL_STORE", "s3://another/store")
    others.add(pod_name(step("gpu"), RUN))
    assert len(others | {name}) == 5


def test_a_long_name_is_cut_and_stays_its_own(settings: None) -> None:
    names = {pod_name(step("gpu", name="a" * 100 + end), RUN) for end in ("1", "2")}
    assert len(names) == 2
    assert all(len(name) <= LONGEST for name in names)


# ---- what a status means


def pod(
    phase: str = "Running",
    *,
    reason: str | None = None,
    message: str | None = None,
    terminated: dict[str, Any] | None = None,
    waiting: dict[str, Any] | None = None,
    condition: tuple[str, str, str, str] | None = None,
) -> V1Pod:
    state = V1ContainerState(
        terminated=V1ContainerStateTerminated(**terminated) if terminated else None,
        waiting=V1ContainerStateWaiting(**waiting) if waiting else None,
    )
    status = V1ContainerStatus(
        name=CONTAINER, image="i", image_id="", ready=False, restart_count=0, state=state
    )
    conditions = []
    if condition:
        kind, value, why, text = condition
        conditions = [V1PodCondition(type=kind, status=value, reason=why, message=text)]
    return V1Pod(
        metadata=V1ObjectMeta(name="adapted"),
        spec=V1PodSpec(containers=[], node_name="node-1"),
        status=V1PodStatus(
            phase=phase,
            reason=reason,
            message=message,
            conditions=conditions,
            container_statuses=[status] if terminated or waiting else None,
        ),
    )


def words(failure: str, message: str = "why") -> str:
    return json.dumps({"step": "adapted", "failure": failure, "message": message, "tail": ["last"]})


SEEN = {
    "gone": (None, Failure.PREEMPTED),
    "done": (pod("Succeeded", terminated={"exit_code": 0}), None),
    "exit code": (pod("Failed", terminated={"exit_code": 3}), Failure.DATA_INVALID),
    "unknown exit code": (pod("Failed", terminated={"exit_code": 77}), Failure.BUG),
    "its own words": (
        pod("Failed", terminated={"exit_code": 1, "message": words("DIVERGED")}),
        Failure.DIVERGED,
    ),
    "killed for memory": (
        pod("Failed", terminated={"exit_code": 137, "reason": "OOMKilled"}),
        Failure.OUT_OF_MEMORY,
    ),
    "killed": (pod("Failed", terminated={"exit_code": 137, "reason": "Error"}), Failure.PREEMPTED),
    "crashed": (pod("Failed", terminated={"exit_code": 139, "reason": "Error"}), Failure.INFRASTRUCTURE),
    "no such command": (
        pod("Failed", terminated={"exit_code": 128, "reason": "StartError", "message": "no such file"}),
        Failure.CONFIG_INVALID,
    ),
    "preempted, and it could not say so": (
        pod(
            "Failed",
            terminated={"exit_code": 1},
            condition=("DisruptionTarget", "True", "PreemptionByScheduler", "for another"),
        ),
        Failure.PREEMPTED,
    ),
    "bad data while it was preempted": (
        pod(
            "Failed",
            terminated={"exit_code": 3, "message": words("DATA_INVALID")},
            condition=("DisruptionTarget", "True", "PreemptionByScheduler", "for another"),
        ),
        Failure.DATA_INVALID,
    ),
    "a disruption that did not happen": (
        pod("Failed", terminated={"exit_code": 1}, condition=("DisruptionTarget", "False", "", "")),
        Failure.BUG,
    ),
    "evicted by its node": (
        pod("Failed", reason="Evicted", message="The node was low on resource: memory."),
        Failure.PREEMPTED,
    ),
    "evicted for its own disk": (
        pod(
            "Failed", reason="Evicted", message='Usage of EmptyDir volume "scratch" exceeds the limit "20Gi".'
        ),
        Failure.INFRASTRUCTURE,
    ),
    "too long for its template": (
        pod("Failed", reason="DeadlineExceeded", terminated={"exit_code": 143}),
        Failure.INFRASTRUCTURE,
    ),
    "refused by its node": (pod("Failed", reason="UnexpectedAdmissionError"), Failure.INFRASTRUCTURE),
    "no image": (
        pod("Pending", waiting={"reason": "ErrImagePull", "message": "not found"}),
        Failure.CONFIG_INVALID,
    ),
    "a busy registry": (
        pod("Pending", waiting={"reason": "ErrImagePull", "message": "429 Too Many Requests"}),
        Failure.INFRASTRUCTURE,
    ),
    "a secret that is missing": (
        pod("Pending", waiting={"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}),
        Failure.CONFIG_INVALID,
    ),
    "a slow start": (pod("Pending", waiting={"reason": "ContainerCreating"}), Failure.INFRASTRUCTURE),
    "no node": (
        pod("Pending", condition=("PodScheduled", "False", "Unschedulable", "0/3 nodes")),
        Failure.INFRASTRUCTURE,
    ),
}


@pytest.mark.parametrize(("given", "failure"), SEEN.values(), ids=SEEN.keys())
def test_p4_the_class_of_a_failure_from_the_pods_status(given: V1Pod | None, failure: Failure | None) -> None:
    assert observe(given, "registry.example/x@sha256:1").failure is failure


@pytest.mark.parametrize("reason", GONE)
def test_p4_what_the_cluster_ended_is_preempted(reason: str) -> None:
    assert observe(pod("Failed", reason=reason), "i").failure is Failure.PREEMPTED


def test_p4_an_image_that_cannot_be_pulled_is_named() -> None:
    seen = observe(
        pod("Pending", waiting={"reason": "ImagePullBackOff", "message": "denied"}), "registry/x@1"
    )
    assert "registry/x@1" in seen.words
    assert "denied" in seen.words


def test_p4_the_scheduler_is_quoted() -> None:
    given = pod("Pending", condition=("PodScheduled", "False", "Unschedulable", "0/3 nodes are available"))
    assert "0/3 nodes are available" in observe(given, "i").words


def test_only_a_kill_for_memory_is_one() -> None:
    assert observe(pod("Failed", terminated={"exit_code": 137, "reason": "OOMKilled"}), "i").killed_for_memory
    assert not observe(pod("Failed", terminated={"exit_code": 4}), "i").killed_for_memory


def test_a_container_that_ended_has_ended_before_its_pod_says_so() -> None:
    assert ended(pod("Running", terminated={"exit_code": 0}))
    assert not ended(pod("Running"))


def test_p5_last_words_are_read_as_the_step_wrote_them() -> None:
    found = last_words(words("DATA_INVALID", "row 7"))
    assert (found.failure, found.message, found.tail) == (Failure.DATA_INVALID, "row 7", ("last",))


def test_p5_last_words_that_were_cut_still_name_the_class() -> None:
    found = last_words(words("DATA_INVALID", "row 7 " * 2000)[:4096])
    assert found.failure is Failure.DATA_INVALID
    assert "row 7" in found.message


def test_p5_the_last_lines_of_a_log_are_a_tail() -> None:
    found = last_words("step 41\nstep 42\n")
    assert (found.failure, found.tail) == (None, ("step 41", "step 42"))
