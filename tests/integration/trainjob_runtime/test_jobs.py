"""A training on several machines: ends, waits for Kueue, is suspended, JobSet without Trainer, the log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence

import pytest
from runtimes import trainjob_trigger
from runtimes.failures import StepFailed
from runtimes.pods import ATTEMPT
from runtimes.trainjob_api import QUEUE

from tasks.recipe.failures import Failure
from tests.integration.kubernetes_api import KubernetesApi
from tests.integration.kubernetes_lives import PODS, Life, Wait, exited, running, says, scheduled
from tests.integration.store_double import StoreDouble
from tests.integration.trainjob_runtime import life
from tests.integration.trainjob_runtime.task import attempt, begin, created, deletions, finish, job_of, wait


@pytest.mark.parametrize("plural", ["trainjobs", "jobsets"])
def test_a_training_on_two_machines_succeeds(
    plural: str, api: KubernetesApi, store: StoreDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    """With Trainer as a TrainJob; without it as the JobSet that Trainer would have made."""
    if plural == "jobsets":
        api.missing.add("trainer.kubeflow.org")
    api.script(
        life.pods(life.ends(0), life.ends(0)), Wait(), store.commits(), life.done(plural), plural=plural
    )
    deferred = begin()
    assert deferred is not None
    job = api.get(life.KINDS[plural], life.NAMESPACE, life.NAME)
    assert job is not None
    assert (api.get(life.RUNTIMES, life.NAMESPACE, life.NAME) is not None) == (plural == "trainjobs")
    threading.Timer(0.3, api.go_on, [life.NAME]).start()
    event = wait(deferred)
    assert event["state"] == "succeeded"
    finish(deferred, event)
    assert "step 1/2 loss 2.00" in capsys.readouterr().out
    assert api.get(life.KINDS[plural], life.NAMESPACE, life.NAME) is None
    assert api.get(life.RUNTIMES, life.NAMESPACE, life.NAME) is None
    asked = store.asked[-1]
    assert asked[asked.index("--attempt") + 1] == job["metadata"]["annotations"][ATTEMPT]


def test_the_job_is_deleted_with_its_pods_in_the_foreground(api: KubernetesApi, store: StoreDouble) -> None:
    api.script(life.pods(life.ends(0), life.ends(0)), store.commits(), life.done(), plural="trainjobs")
    deferred = begin()
    assert deferred is not None
    job = api.get(life.TRAINJOBS, life.NAMESPACE, life.NAME)
    assert job is not None
    finish(deferred, wait(deferred))
    (options,) = deletions(api, "trainjobs")
    assert options["propagationPolicy"] == "Foreground"
    assert options["preconditions"] == {"uid": job["metadata"]["uid"]}


def test_a_job_waits_for_kueue_and_starts_when_it_is_admitted(
    api: KubernetesApi,
    store: StoreDouble,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PERENNIAL_QUEUE", "training")
    api.script(
        Wait(),
        life.admitted(),
        life.pods(life.ends(0), life.ends(0)),
        store.commits(),
        life.done(),
        plural="trainjobs",
    )
    deferred = begin()
    assert deferred is not None
    job = api.get(life.TRAINJOBS, life.NAMESPACE, life.NAME)
    assert job is not None
    assert job["metadata"]["labels"][QUEUE] == "training"
    assert job["spec"]["suspend"] is True
    threading.Timer(0.5, api.go_on, [life.NAME]).start()
    event = wait(deferred)
    assert "waits for room in the queue 'training'" in capsys.readouterr().out
    finish(deferred, event)


def test_a_job_that_is_suspended_while_it_runs_goes_on_as_the_same_attempt(
    api: KubernetesApi, store: StoreDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kueue takes the machines back for a job of more weight, and gives them again: no retry is used."""
    api.script(
        *(life.pods(life.RUNS, life.RUNS), Wait(), life.suspended(), Wait(), life.admitted()),
        *(life.pods(life.ends(0), life.ends(0)), store.commits(), life.done()),
        plural="trainjobs",
    )
    threading.Timer(0.4, api.go_on, [life.NAME]).start()
    threading.Timer(0.9, api.go_on, [life.NAME]).start()
    attempt()
    assert created(api, "trainjobs") == 1
    assert "is suspended: until it is resumed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "found"),
    [((), "TrainJob"), (("trainer.kubeflow.org",), "JobSet")],
)
def test_jobset_is_used_where_trainer_is_not_installed(
    missing: Sequence[str], found: str, api: KubernetesApi, store: StoreDouble
) -> None:
    api.missing.update(missing)
    deferred = begin()
    assert deferred is not None
    assert job_of(deferred)["kind"] == found


def test_where_neither_is_installed_it_says_what_to_install(api: KubernetesApi, store: StoreDouble) -> None:
    api.missing.update(["trainer.kubeflow.org", "jobset.x-k8s.io"])
    with pytest.raises(StepFailed, match=r"install Kubeflow Trainer 2.*or JobSet") as caught:
        begin()
    assert caught.value.failure is Failure.CONFIG_INVALID


def test_a_missing_image_setting_is_the_operators_to_mend(
    api: KubernetesApi, store: StoreDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERENNIAL_IMAGE_TRAINER")
    with pytest.raises(StepFailed, match="PERENNIAL_IMAGE_TRAINER") as caught:
        begin()
    assert caught.value.failure is Failure.CONFIG_INVALID
    assert api.requests == []


def test_p5_rank_0s_lines_are_shown_while_it_runs_and_again_at_the_end(
    api: KubernetesApi,
    store: StoreDouble,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trainjob_trigger, "LOG_SECONDS", 0.0)
    last = exited(1, message=json.dumps({"failure": "DIVERGED", "message": "loss is NaN"}))
    first: Life = [scheduled(), running("step 1/2 é"), Wait(), says("step 2/2"), last]
    other: Life = [scheduled(), running("rank 8"), Wait()]
    api.script(life.pods(first, other), Wait(), life.FAILED, plural="trainjobs")
    deferred = begin()
    assert deferred is not None

    def go_on() -> None:
        until = time.monotonic() + 60
        while not any(each.path.endswith("/log") for each in api.requests) and time.monotonic() < until:
            time.sleep(0.05)
        (rank_0,) = [
            each["metadata"]["name"] for each in api.all(PODS) if "-node-0-0-" in each["metadata"]["name"]
        ]
        api.go_on(rank_0)
        time.sleep(0.3)
        api.go_on(life.NAME)

    threading.Thread(target=go_on).start()
    event = wait(deferred)
    shown = capsys.readouterr().out
    with pytest.raises(StepFailed, match="loss is NaN"):
        finish(deferred, event)
    assert [shown.count("step 1/2 é"), shown.count("step 2/2"), shown.count("rank 8")] == [1, 1, 0]
    assert "step 1/2 é\nstep 2/2" in capsys.readouterr().out
