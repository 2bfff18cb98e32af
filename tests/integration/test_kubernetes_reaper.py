"""The reaper, through the real clients, against the API double: what ended long ago goes, all else stays."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tenacity

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dags"))
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="perennial-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

from airflow.providers.cncf.kubernetes import kubernetes_helper_functions
from kubernetes import config
from kubernetes.client import CoreV1Api, CustomObjectsApi
from runtimes import reaper
from runtimes.pods import labels
from runtimes.steps import StepTask

from tasks.recipe.failures import ConfigInvalid
from tests.integration.kubernetes_api import KubernetesApi
from tests.integration.kubernetes_lives import PODS, Object, Wait

STEPS = "perennial-steps"
TRAINJOBS = ("trainer.kubeflow.org", "v1alpha1", "trainjobs")
RUNTIMES = ("trainer.kubeflow.org", "v1alpha1", "trainingruntimes")
JOBSETS = ("jobset.x-k8s.io", "v1alpha2", "jobsets")
STEP = StepTask("adapted", "pydocs", "pydocs", "ada", "pretrain", "large", "doc")
NOW = datetime.now(UTC)
OLD, YOUNG = NOW - timedelta(hours=30), NOW - timedelta(hours=20)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    for name in list(os.environ):
        if name.startswith(("PERENNIAL_", "KUBE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PERENNIAL_STORE", "s3://models/perennial")
    monkeypatch.setattr(kubernetes_helper_functions, "_default_wait", tenacity.wait_fixed(0.01))
    with KubernetesApi(pause=0.02) as double:
        double.default = [Wait()]  # nothing happens to a pod by itself
        monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(tmp_path)))
        yield double


def ours(store: str = "s3://models/perennial") -> dict[str, str]:
    """The labels that an installation with this store gives its pods and jobs."""
    before, os.environ["PERENNIAL_STORE"] = os.environ["PERENNIAL_STORE"], store
    try:
        return labels(STEP, "manual__1")
    finally:
        os.environ["PERENNIAL_STORE"] = before


def at(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def pod(
    api: KubernetesApi,
    name: str,
    phase: str = "Failed",
    ended: datetime | None = OLD,
    given: dict[str, str] | None = None,
    **metadata: Any,
) -> None:
    """A pod that was made two days ago, in this state since `ended`."""
    made = {"metadata": {"name": name, "labels": ours() if given is None else given, **metadata}}
    api.create(PODS, STEPS, made | {"spec": {"containers": [{"name": "step"}]}})
    found = api.get(PODS, STEPS, name)
    assert found is not None
    found["metadata"]["creationTimestamp"] = at(NOW - timedelta(hours=48))
    state: Object = {"running": {"startedAt": at(OLD)}}
    if phase in ("Failed", "Succeeded"):
        state = {"terminated": {"exitCode": 1, "finishedAt": at(ended) if ended else None}}
    statuses = [
        {"name": "step", "state": state, "image": "", "imageID": "", "ready": False, "restartCount": 0}
    ]
    found["status"] = {"phase": phase, "conditions": [], "containerStatuses": statuses}
    api.save(PODS, found)


def job(
    api: KubernetesApi,
    kind: tuple[str, str, str],
    name: str,
    condition: str = "",
    ended: datetime = OLD,
    given: dict[str, str] | None = None,
    **metadata: Any,
) -> None:
    word = {"trainjobs": "TrainJob", "jobsets": "JobSet", "trainingruntimes": "TrainingRuntime"}[kind[2]]
    made: Object = {
        "apiVersion": f"{kind[0]}/{kind[1]}",
        "kind": word,
        "metadata": {"name": name, "labels": ours() if given is None else given, **metadata},
        "spec": {},
    }
    api.create(kind, STEPS, made)
    found = api.get(kind, STEPS, name)
    assert found is not None
    found["metadata"]["creationTimestamp"] = at(NOW - timedelta(hours=48))
    if condition:
        said = {"type": condition, "status": "True", "reason": "x", "lastTransitionTime": at(ended)}
        found["status"] = {"conditions": [said]}
    api.save(kind, found)


def names(api: KubernetesApi, kind: tuple[str, str, str] = PODS) -> set[str]:
    return {each["metadata"]["name"] for each in api.all(kind)}


def test_what_failed_a_day_ago_goes_and_what_failed_since_stays(
    api: KubernetesApi, capsys: pytest.CaptureFixture[str]
) -> None:
    pod(api, "old")
    pod(api, "young", ended=YOUNG)
    pod(api, "orphan-that-succeeded", "Succeeded")
    pod(api, "without-a-time", ended=None)  # lost with its node: its creation is all there is
    assert reaper.main() == 0
    assert names(api) == {"young"}
    assert "removed pod old of perennial-steps" in capsys.readouterr().out


@pytest.mark.parametrize("phase", ["Running", "Pending", "Unknown"])
def test_what_has_not_ended_is_never_touched(api: KubernetesApi, phase: str) -> None:
    pod(api, "living", phase)
    assert reaper.main() == 0
    assert names(api) == {"living"}
    assert [each for each in api.requests if each.method != "GET"] == []


def test_what_is_not_ours_is_never_touched(api: KubernetesApi) -> None:
    pod(api, "other-installation", given=ours("s3://others/perennial"))
    pod(api, "no-installation", given={k: v for k, v in ours().items() if k != "perennial/installation"})
    pod(api, "stranger", given={})
    pod(api, "rank", ownerReferences=[{"kind": "Job", "name": "j", "uid": "u", "apiVersion": "batch/v1"}])
    for kind in (TRAINJOBS, JOBSETS):
        job(api, kind, "other", "Failed", given=ours("s3://others/perennial"))
        job(api, kind, "stranger", "Failed", given={})
    job(api, RUNTIMES, "theirs", given=ours("s3://others/perennial"))
    assert reaper.main() == 0
    assert [each for each in api.requests if each.method != "GET"] == []


def test_a_pod_that_took_the_place_of_a_failed_one_stays(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the list and the removal a retry made a pod of the same name."""
    pod(api, "again")
    listed = CoreV1Api.list_namespaced_pod

    def then_a_retry(self: CoreV1Api, *given: Any, **more: Any) -> Any:
        found = listed(self, *given, **more)
        api.remove(PODS, api.all(PODS)[0])
        pod(api, "again", "Running")
        return found

    monkeypatch.setattr(CoreV1Api, "list_namespaced_pod", then_a_retry)
    assert reaper.main() == 0
    (left,) = api.all(PODS)
    assert left["status"]["phase"] == "Running"
    assert "removed" not in capsys.readouterr().out


def test_jobs_that_ended_go_with_their_runtimes_and_all_others_stay(api: KubernetesApi) -> None:
    for name, condition, ended in [
        *(("failed", "Failed", OLD), ("complete", "Complete", OLD), ("young", "Failed", YOUNG)),
        *(("running", "", OLD), ("suspended", "Suspended", OLD)),
    ]:
        job(api, TRAINJOBS, name, condition, ended)
        job(api, RUNTIMES, name)
    job(api, RUNTIMES, "left-alone")
    job(api, JOBSETS, "jobset", "Completed")
    job(api, JOBSETS, "of-a-trainjob", "Failed", ownerReferences=[{"kind": "TrainJob", "name": "young"}])
    assert reaper.main() == 0
    assert names(api, TRAINJOBS) == names(api, RUNTIMES) == {"young", "running", "suspended"}
    assert names(api, JOBSETS) == {"of-a-trainjob"}
    removed = [each for each in api.requests if each.method == "DELETE" and "trainjobs" in each.path]
    assert {each.body["propagationPolicy"] for each in removed} == {"Foreground"}
    assert all(each.body["preconditions"]["uid"] for each in removed)


def test_a_cluster_without_trainer_and_jobset_is_cleared_too(api: KubernetesApi) -> None:
    api.missing |= {"trainer.kubeflow.org", "jobset.x-k8s.io"}
    pod(api, "old")
    assert reaper.main() == 0
    assert names(api) == set()


def test_the_time_is_a_setting(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_POD_KEEP_HOURS", "19.5")
    pod(api, "young", ended=YOUNG)
    assert reaper.main() == 0
    assert names(api) == set()


@pytest.mark.parametrize("given", ["a day", "0", "-3", "nan", "inf"])
def test_a_time_that_is_none_is_refused(
    api: KubernetesApi, given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERENNIAL_POD_KEEP_HOURS", given)
    with pytest.raises(ConfigInvalid, match=f"PERENNIAL_POD_KEEP_HOURS is '{given}'"):
        reaper.keep_time()
    assert reaper.main() == 2
    assert "give a number of hours" in capsys.readouterr().err
    assert api.requests == []


def test_without_a_store_nobodys_pods_are_ours(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PERENNIAL_STORE")
    assert reaper.main() == 2
    assert "PERENNIAL_STORE is not set" in capsys.readouterr().err
    assert api.requests == []


def test_an_api_that_is_busy_is_asked_again_and_one_that_refuses_is_told(
    api: KubernetesApi, capsys: pytest.CaptureFixture[str]
) -> None:
    pod(api, "old")
    api.fail(500, times=2, path="/pods")
    assert reaper.main() == 0
    assert names(api) == set()
    api.fail(403, path="/pods$")
    assert reaper.main() == 6
    assert "the cluster's API answers 403" in capsys.readouterr().err


def test_what_the_runtimes_make_carries_the_label_that_is_looked_for(api: KubernetesApi) -> None:
    """The golden manifests hold it; this is its one source."""
    config.load_kube_config(os.environ.get("KUBECONFIG"))
    assert ours()["perennial/installation"] != ours("s3://others/perennial")["perennial/installation"]
    pod(api, "old")
    done = list(reaper.reap(CoreV1Api(), CustomObjectsApi(), STEPS, NOW - timedelta(hours=24)))
    assert done == ["pod old"]
