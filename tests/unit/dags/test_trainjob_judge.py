"""What is read from a job and its pods, without a cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from runtimes.trainjob_api import INDEX_OF_POD, JOBSET, QUEUE, TRAINJOB, Object, active_since, by_index
from runtimes.trainjob_judge import Seen, judge

OLD, LONG_AGO, NEVER = "2026-11-21T12:00:00Z", 1.0, 1e12
"""A moment in the past; a limit that is over since; one that is not."""


def job(*conditions: Object, nodes: int = 2, suspend: bool = False, queue: str = "") -> Object:
    labels = {QUEUE: queue} if queue else {}
    return {
        "metadata": {"name": "j", "creationTimestamp": OLD, "labels": labels},
        "spec": {"trainer": {"numNodes": nodes}, "suspend": suspend},
        "status": {"conditions": list(conditions)},
    }


def condition(kind: str, status: str = "True", **more: str) -> Object:
    return {"type": kind, "status": status, **more}


def pod(index: int, phase: str = "Running", state: Any = None, **status: Any) -> Object:
    containers = [{"name": "node", "image": "registry.example/trainer", "state": state}] if state else []
    labels = {INDEX_OF_POD: str(index)}
    return {
        "metadata": {"name": f"j-node-0-{index}", "creationTimestamp": OLD, "labels": labels},
        "spec": {"nodeName": f"machine-{index}"},
        "status": {"phase": phase, "containerStatuses": containers, **status},
    }


def ended(code: int, failure: str = "", at: str = OLD, **more: str) -> Object:
    message = json.dumps({"failure": failure, "message": f"it was {failure}"}) if failure else ""
    return {"terminated": {"exitCode": code, "finishedAt": at, **{"message": message, **more}}}


FAILED = condition("Failed", reason="FailedJobs", message="jobset failed due to one or more job failures")


def test_a_job_that_is_gone_has_ended_and_says_no_class() -> None:
    """The store says the rest: a job deleted after its commit was a success."""
    seen = judge(TRAINJOB, None, [], NEVER)
    assert (seen.state, seen.ended, seen.failure) == ("gone", True, "")


@pytest.mark.parametrize(("api", "word"), [(TRAINJOB, "Complete"), (JOBSET, "Completed")])
def test_each_kind_has_its_word_for_success(api: Any, word: str) -> None:
    other = {"Complete": "Completed", "Completed": "Complete"}[word]
    jobset_spec = {"replicatedJobs": [{"template": {"spec": {"parallelism": 2}}}]}
    made = {**job(condition(word)), "spec": {"trainer": {"numNodes": 2}, **jobset_spec}}
    assert judge(api, made, [], NEVER).state == "succeeded"
    made["status"] = {"conditions": [condition(other)]}
    assert judge(api, made, [], NEVER).state == "waiting"


def test_a_job_in_a_queue_waits_without_a_limit() -> None:
    seen = judge(TRAINJOB, job(suspend=True, queue="training"), [], LONG_AGO)
    assert seen == Seen("suspended", "waits for room in the queue 'training'")


def test_the_time_to_start_counts_from_the_end_of_the_suspension() -> None:
    late = condition("Suspended", "False", lastTransitionTime="2026-11-21T13:00:00Z")
    assert active_since(job(late)) == "2026-11-21T13:00:00Z"
    assert active_since(job(condition("Suspended", "True", lastTransitionTime="2026-11-21T13:00:00Z"))) == OLD


def test_pods_that_do_not_start_in_time_are_told_with_their_reasons() -> None:
    waiting = condition("PodScheduled", "False", reason="Unschedulable", message="0/3 nodes are available")
    pods = [pod(0), pod(1, "Pending", conditions=[waiting])]
    assert judge(TRAINJOB, job(), pods, NEVER).words == (
        "1 of 2 pods run; pod j-node-0-1 on machine-1 Unschedulable: 0/3 nodes are available"
    )
    seen = judge(TRAINJOB, job(), pods, LONG_AGO)
    assert (seen.ended, seen.failure) == (True, "INFRASTRUCTURE")
    assert "0/3 nodes are available" in seen.words


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"])
def test_a_wrong_image_ends_the_wait_at_once_with_its_reference(reason: str) -> None:
    pods = [pod(0), pod(1, "Pending", {"waiting": {"reason": reason, "message": "not found"}})]
    seen = judge(TRAINJOB, job(), pods, NEVER)
    assert (seen.ended, seen.failure) == (True, "CONFIG_INVALID")
    assert "registry.example/trainer" in seen.words


def test_one_failed_pull_may_be_chance() -> None:
    pods = [pod(0), pod(1, "Pending", {"waiting": {"reason": "ErrImagePull"}})]
    assert not judge(TRAINJOB, job(), pods, NEVER).ended


def test_p6_one_lost_pod_ends_all_since_the_others_would_hang() -> None:
    disrupted = condition("DisruptionTarget", reason="DeletionByTaintManager", message="node unreachable")
    seen = judge(TRAINJOB, job(), [pod(0), pod(1, conditions=[disrupted])], NEVER)
    assert (seen.ended, seen.failure) == (True, "PREEMPTED")
    assert "machine-1" in seen.words
    assert "DeletionByTaintManager" in seen.words


def test_p6_a_pod_in_place_of_a_lost_one_ends_all_since_its_rank_starts_anew() -> None:
    """It vanished with its node before anybody saw a condition."""
    began = {"running": {"startedAt": "2026-11-21T12:00:30Z"}}
    pods = [pod(0, state=began), pod(1, "Pending")]
    pods[1]["metadata"]["creationTimestamp"] = "2026-11-21T14:00:00Z"
    seen = judge(TRAINJOB, job(), pods, NEVER)
    assert (seen.ended, seen.failure) == (True, "PREEMPTED")
    pods[1]["metadata"]["creationTimestamp"] = "2026-11-21T12:00:50Z"
    assert judge(TRAINJOB, job(), pods, NEVER).state == "waiting"


def test_the_one_pod_of_a_job_may_be_replaced_and_has_its_time_to_start_again() -> None:
    young = pod(0, "Pending")
    young["metadata"]["creationTimestamp"] = "2999-01-01T00:00:00Z"
    assert judge(TRAINJOB, job(nodes=1), [young], LONG_AGO).state == "waiting"


def test_p4_a_failed_job_with_a_disrupted_pod_was_preempted_whatever_its_ranks_say() -> None:
    disrupted = condition("DisruptionTarget", reason="PreemptionByScheduler")
    pods = [pod(0, "Failed", ended(1, "BUG")), pod(1, "Failed", conditions=[disrupted])]
    assert judge(TRAINJOB, job(FAILED), pods, NEVER).failure == "PREEMPTED"


def test_moments_compare_however_they_are_written() -> None:
    """A custom object comes as Kubernetes wrote it; a pod as the client writes it."""
    young = pod(0)
    young["metadata"]["creationTimestamp"] = OLD.replace("Z", "+00:00")
    assert judge(TRAINJOB, job(nodes=1), [young], NEVER).state == "running"


def test_p1_pods_of_an_earlier_job_of_the_name_do_not_count() -> None:
    """A job that was deleted by force leaves its pods for a while."""
    old = pod(1, conditions=[condition("DisruptionTarget", reason="DeletionByTaintManager")])
    old["metadata"]["creationTimestamp"] = "2026-11-21T11:00:00Z"
    assert judge(TRAINJOB, job(), [pod(0), pod(1), old], NEVER).state == "running"


def test_a_pod_that_had_ended_well_may_be_collected() -> None:
    collected = condition("DisruptionTarget", reason="DeletionByPodGC")
    pods = [pod(0), pod(1, "Succeeded", conditions=[collected])]
    assert judge(TRAINJOB, job(), pods, NEVER) == Seen("running", "all 2 pods run")


def test_a_pod_killed_for_memory_says_so_although_rank_0_only_lost_it() -> None:
    pods = [pod(0, "Failed", ended(1, "PREEMPTED")), pod(1, "Failed", ended(137, reason="OOMKilled"))]
    seen = judge(TRAINJOB, job(FAILED), pods, NEVER)
    assert (seen.failure, seen.memory) == ("OUT_OF_MEMORY", True)


@pytest.mark.parametrize("failure", ["DATA_INVALID", "CONFIG_INVALID", "DIVERGED", "BUG"])
def test_the_cause_is_not_the_rank_that_was_stopped_after_it(failure: str) -> None:
    pods = [
        pod(0, "Failed", ended(1, "PREEMPTED", at="2026-11-21T12:00:01Z")),
        pod(1, "Failed", ended(1, failure, at="2026-11-21T12:00:02Z")),
    ]
    seen = judge(TRAINJOB, job(FAILED), pods, NEVER)
    assert seen.failure == failure
    assert "machine-1" in seen.words
    assert "jobset failed" in seen.words


def test_of_two_causes_the_first_is_told() -> None:
    pods = [
        pod(0, "Failed", ended(1, "BUG", at="2026-11-21T12:00:02Z")),
        pod(1, "Failed", ended(1, "DATA_INVALID", at="2026-11-21T12:00:01Z")),
    ]
    assert judge(TRAINJOB, job(FAILED), pods, NEVER).failure == "DATA_INVALID"


@pytest.mark.parametrize(
    ("code", "failure"),
    [(1, "INFRASTRUCTURE"), (137, "PREEMPTED"), (139, "INFRASTRUCTURE"), (3, "DATA_INVALID")],
)
def test_without_words_the_exit_code_is_all_there_is(code: int, failure: str) -> None:
    """Torchrun ends with 1 whatever its ranks ended with."""
    assert judge(TRAINJOB, job(FAILED), [pod(0, "Failed", ended(code))], NEVER).failure == failure


def test_an_image_without_the_command_is_for_whoever_chose_it() -> None:
    state = ended(128, reason="StartError", message="exec: torchrun: not found")
    assert judge(TRAINJOB, job(FAILED), [pod(0, "Failed", state)], NEVER).failure == "CONFIG_INVALID"


def test_words_that_kubernetes_cut_off_still_give_the_class() -> None:
    state = ended(1)
    state["terminated"]["message"] = '{"step": "adapted", "failure": "DIVERGED", "message": "the loss is'
    seen = judge(TRAINJOB, job(FAILED), [pod(0, "Failed", state)], NEVER)
    assert seen.failure == "DIVERGED"
    assert "the loss is" in seen.words


def test_the_logs_last_lines_stand_in_for_words_that_could_not_be_written() -> None:
    state = ended(1)
    state["terminated"]["message"] = "Signal 9 (SIGKILL) received by PID 7"
    assert "SIGKILL" in judge(TRAINJOB, job(FAILED), [pod(0, "Failed", state)], NEVER).words


def test_a_pod_that_filled_its_own_disk_was_not_preempted() -> None:
    full = "Pod ephemeral local storage usage exceeds the total limit of containers 8Gi."
    disrupted = condition("DisruptionTarget", reason="TerminationByKubelet")
    pods = [pod(0), pod(1, "Failed", reason="Evicted", message=full, conditions=[disrupted])]
    seen = judge(TRAINJOB, job(), pods, NEVER)
    assert (seen.ended, seen.failure) == (True, "INFRASTRUCTURE")
    assert "ephemeral-storage" in seen.words


def test_no_pod_left_is_no_class() -> None:
    seen = judge(TRAINJOB, job(FAILED), [], NEVER)
    assert (seen.ended, seen.failure) == (True, "")


def test_what_is_seen_can_be_kept_in_a_database() -> None:
    seen = judge(TRAINJOB, job(FAILED), [pod(0, "Failed", ended(1, "BUG"))], NEVER)
    assert Seen(**json.loads(json.dumps(seen.as_event()))) == seen


def test_rank_0_comes_first_and_the_younger_pod_of_an_index_before_the_older() -> None:
    first, second, third = pod(1), pod(0), pod(0)
    third["metadata"]["creationTimestamp"] = "2026-11-21T13:00:00Z"
    assert by_index([first, second, third]) == [third, second, first]
