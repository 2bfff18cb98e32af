"""Prometheus raises each alert of k8s/monitoring on the metrics of its trouble, and drops it afterwards.

The figures stand for what the exporters write before and after the runbook's remedy; the remedy itself needs
a cluster. Prometheus' own `promtool test rules` judges.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.k8s.rendered import ROOT
from tests.unit.k8s.test_monitoring import RULES, alerts

RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Story:
    """The metrics of one trouble, from before it until after its remedy.

    Attributes:
        series: Metric -> its values in promtool's notation, one every `step`.
        fires: When the alert must be there.
        over: When it must be gone.
        says: Its summary, as a person reads it.
        labels: Its labels, beside the severity.
    """

    series: dict[str, str]
    fires: str
    over: str
    says: str
    labels: dict[str, str] = field(default_factory=dict)
    step: str = "1m"


def counted(metric: str, fires: str, over: str, says: str, by: int = 1, **labels: str) -> Story:
    """A counter that rises once, after an hour, and then no more."""
    named = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return Story({f"{metric}{{{named}}}": f"0x60 {by}x200"}, fires, over, says, labels)


POD = 'namespace="perennial-steps",pod="adapted-1"'
GPU = 'exported_namespace="perennial-steps",exported_pod="adapted-1"'
MLFLOW = 'namespace="perennial",deployment="mlflow"'
SCRATCH = 'namespace="perennial",persistentvolumeclaim="scratch"'
STORIES: dict[str, Story] = {
    "PerennialRunFailed": counted(
        "airflow_dagrun_failed_count", "70m", "3h", "a run of train__pydocs failed", dag_id="train__pydocs"
    ),
    "PerennialNoRunForAWeek": Story(
        {'airflow_dagrun_duration_count{dag_id="train__pydocs"}': "5x200 7x30"},
        "200h",
        "210h",
        "no training run ended well for eight days, whatever Airflow's own deadlines say",
        step="1h",
    ),
    "PerennialTaskWithoutHeartbeat": counted(
        "airflow_task_instances_without_heartbeats_killed",
        "70m",
        "3h",
        "Airflow gave up tasks that stopped answering",
    ),
    "PerennialTaskFailures": counted(
        "airflow_ti_failures", "70m", "3h", "more than ten failed tries of tasks in an hour", by=12
    ),
    "PerennialDagImportErrors": Story(
        {"airflow_dag_processing_import_errors": "0x5 2x30 0x30"},
        "20m",
        "50m",
        "2 DAG files cannot be loaded",
    ),
    "PerennialPoolStarving": Story(
        {'airflow_pool_starving_tasks{pool="gpu"}': "0x5 3x500 0x200"},
        "8h",
        "10h",
        "tasks have waited for a slot of the pool gpu for six hours",
        {"pool": "gpu"},
    ),
    "PerennialSchedulerDown": Story(
        {"airflow_scheduler_heartbeat": "0+12x10 120x30 132+12x20"},
        "30m",
        "50m",
        "no heartbeat of a scheduler",
    ),
    "PerennialTriggererDown": Story(
        {"airflow_triggerer_heartbeat": "0+12x10 120x30 132+12x20"},
        "30m",
        "50m",
        "no heartbeat of a triggerer: nobody waits for the steps that run",
    ),
    "PerennialTriggererBlocked": counted(
        "airflow_triggers_blocked_main_thread",
        "65m",
        "90m",
        "triggers block one another; the ends of steps are seen late",
        by=9,
    ),
    "PerennialStepOutOfMemory": Story(
        {f'kube_pod_container_status_terminated_reason{{{POD},reason="OOMKilled"}}': "0x5 1x10 stale"},
        "10m",
        "25m",
        "adapted-1 was killed for memory",
        {"pod": "adapted-1"},
    ),
    "PerennialStepImage": Story(
        {f'kube_pod_container_status_waiting_reason{{{POD},reason="ImagePullBackOff"}}': "1x20 0x10"},
        "10m",
        "25m",
        "adapted-1 cannot pull its image",
        {"pod": "adapted-1"},
    ),
    "PerennialStepUnschedulable": Story(
        {f"kube_pod_status_unschedulable{{{POD}}}": "1x70 0x20"},
        "65m",
        "80m",
        "adapted-1 finds no node",
        {"pod": "adapted-1"},
    ),
    "PerennialStepEvicted": Story(
        {f'kube_pod_status_reason{{{POD},reason="Evicted"}}': "0x5 1x10 stale"},
        "10m",
        "25m",
        "adapted-1 lost its node; it resumes on the next try",
        {"pod": "adapted-1"},
    ),
    "PerennialQuotaNearlyFull": Story(
        {
            'kube_resourcequota{namespace="perennial-steps",resource="pods",type="used"}': "20x40 12x20",
            'kube_resourcequota{namespace="perennial-steps",resource="pods",type="hard"}': "20x60",
        },
        "35m",
        "50m",
        "pods of perennial-steps is used up",
        {"namespace": "perennial-steps", "resource": "pods"},
    ),
    "PerennialGpuIdle": Story(
        {f"DCGM_FI_DEV_GPU_UTIL{{{GPU}}}": "1x70 90x60"},
        "65m",
        "100m",
        "adapted-1 holds a GPU and does not use it",
        {"exported_pod": "adapted-1"},
    ),
    "PerennialGpuError": Story(
        {f"DCGM_FI_DEV_XID_ERRORS{{{GPU}}}": "0x5 79x10 0x9"},
        "10m",
        "20m",
        "the driver reports error 79 under adapted-1",
        {"exported_namespace": "perennial-steps", "exported_pod": "adapted-1"},
    ),
    "PerennialQueueStuck": Story(
        {'kueue_pending_workloads{cluster_queue="perennial",status="inadmissible"}': "1x500 0x100"},
        "8h",
        "9h",
        "a job waits in the queue and fits nowhere",
        {"cluster_queue": "perennial", "status": "inadmissible"},
    ),
    "PerennialMlflowDown": Story(
        {f"kube_deployment_status_replicas_available{{{MLFLOW}}}": "1x5 0x15 1x9"},
        "15m",
        "25m",
        "MLflow does not answer: steps keep their results and end as infrastructure failures",
        {"namespace": "perennial", "deployment": "mlflow"},
    ),
    "PerennialJobFailed": Story(
        {'kube_job_status_failed{namespace="perennial",job_name="mlflow-upgrade"}': "1x10 stale"},
        "5m",
        "20m",
        "the job mlflow-upgrade failed",
        {"namespace": "perennial", "job_name": "mlflow-upgrade"},
    ),
    "PerennialVolumeNearlyFull": Story(
        {
            f"kubelet_volume_stats_available_bytes{{{SCRATCH}}}": "5x20 40x9",
            f"kubelet_volume_stats_capacity_bytes{{{SCRATCH}}}": "100x29",
        },
        "18m",
        "25m",
        "the volume scratch is nearly full",
        {"namespace": "perennial", "persistentvolumeclaim": "scratch"},
    ),
}


def test_every_alert_has_its_story_and_its_words_stand_in_the_runbook() -> None:
    assert list(STORIES) == [rule["alert"] for rule in alerts()]
    assert [name for name, story in STORIES.items() if story.says not in RUNBOOK] == []


def test_prometheus_raises_and_drops_every_alert(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(
            "promtool is missing, so no alert of k8s/monitoring/rules.yaml was raised; get it with "
            "`apt-get install prometheus`"
        )
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(yaml.safe_load(RULES.read_text())["spec"]))
    rules = {rule["alert"]: rule for rule in alerts()}
    files: dict[str, list[dict[str, Any]]] = {}  # by how often Prometheus looks
    for name, story in STORIES.items():
        expected = {
            "exp_labels": {**rules[name]["labels"], **story.labels},
            "exp_annotations": {**rules[name]["annotations"], "summary": story.says},
        }
        asked = [
            {"eval_time": story.fires, "alertname": name, "exp_alerts": [expected]},
            {"eval_time": story.over, "alertname": name, "exp_alerts": []},
        ]
        series = [{"series": metric, "values": values} for metric, values in story.series.items()]
        files.setdefault(story.step, []).append(
            {"interval": story.step, "input_series": series, "alert_rule_test": asked}
        )
    for name in ("PerennialNoRunForAWeek", "PerennialSchedulerDown", "PerennialTriggererDown"):
        expected = {"exp_labels": rules[name]["labels"], "exp_annotations": rules[name]["annotations"]}
        asked = [{"eval_time": "2h", "alertname": name, "exp_alerts": [expected]}]
        files["1m"].append(
            {"interval": "1m", "input_series": [], "alert_rule_test": asked}
        )  # no metric at all
    for step, tests in files.items():
        text = yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": step, "tests": tests})
        (tmp_path / f"{step}.yaml").write_text(text)
    done = subprocess.run(
        [promtool, "test", "rules", *(str(tmp_path / f"{step}.yaml") for step in files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
