"""Alerts and the dashboard: metrics that exist, an answer for every alert."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import airflow
import pytest
import yaml

from tests.unit.k8s.rendered import K8S, Object, named

RULES = K8S / "monitoring" / "rules.yaml"
DASHBOARD = K8S / "monitoring" / "dashboard.json"

MAPPED = {
    "airflow_dagrun_failed": "dagrun.duration.failed",
    "airflow_dagrun_duration": "dagrun.duration.success",
}
"""Names that the chart's statsd mappings change (chart/files/statsd-mappings.yml)."""

EXPORTERS = {
    # kube-state-metrics, docs/metrics
    "kube_deployment_status_replicas_available",
    "kube_job_status_failed",
    "kube_pod_container_status_terminated_reason",
    "kube_pod_container_status_waiting_reason",
    "kube_pod_status_phase",
    "kube_pod_status_reason",
    "kube_pod_status_unschedulable",
    "kube_resourcequota",
    # the kubelet
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    # NVIDIA's DCGM exporter, etc/default-counters.csv
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_XID_ERRORS",
    # Kueue, docs/reference/metrics
    "kueue_pending_workloads",
}


def alerts() -> list[Object]:
    spec = yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]
    return [rule for group in spec["groups"] for rule in group["rules"]]


def dashboard() -> Object:
    read: Object = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts())
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def metrics(expression: str) -> set[str]:
    """Names of metrics: words with an underscore that are no function, label or keyword."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(by|ignoring|on|without) \([^)]*\)", "", bare)
    return {
        name for name in re.findall(r"\b([A-Za-z]\w*_\w+)\b(?!\s*\()(?!\s*=)", re.sub(r"{[^}]*}", "", bare))
    } - {"__range_s"}


def airflows() -> set[str]:
    """The metrics that this Airflow says it writes, as the exporter names them."""
    found = Path(airflow.__path__[0]) / "_shared" / "observability" / "metrics" / "metrics_template.yaml"
    rows = yaml.safe_load(found.read_text(encoding="utf-8"))["metrics"]
    return {"airflow_" + row["name"].replace(".", "_") for row in rows}


def test_every_metric_exists() -> None:
    known = airflows()
    assert "airflow_ti_failures" in known
    wrong = set()
    for name in set().union(*map(metrics, expressions())):
        plain = re.sub(r"_(count|sum|bucket)$", "", name)
        if plain in MAPPED:
            assert "airflow_" + MAPPED[plain].replace(".", "_") in known
        elif name not in known | EXPORTERS:
            wrong.add(name)
    assert wrong == set()


def test_the_names_of_metrics_are_found() -> None:
    assert metrics('rate(airflow_ti_failures[5m]) > 0 or absent(x_y{a_b="c_d"})') == {
        "airflow_ti_failures",
        "x_y",
    }
    assert metrics("max by (some_label) (DCGM_FI_DEV_GPU_UTIL) / ignoring(type) a_b") == {
        "DCGM_FI_DEV_GPU_UTIL",
        "a_b",
    }


def test_every_expression_is_balanced() -> None:
    for expression in expressions():
        for left, right in ("()", "{}", "[]"):
            assert expression.count(left) == expression.count(right), expression
        assert expression.count('"') % 2 == 0


def test_every_alert_says_how_bad_it_is_and_where_help_is() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    for rule in alerts():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]


def test_p20_a_watchdog_that_does_not_ask_airflow() -> None:
    """P20: Airflow's own deadlines can die in silence. These look from outside."""
    names = {rule["alert"] for rule in alerts()}
    assert {"PerennialNoRunForAWeek", "PerennialGpuIdle", "PerennialSchedulerDown"} <= names
    for rule in alerts():
        if rule["alert"] in {"PerennialNoRunForAWeek", "PerennialSchedulerDown", "PerennialTriggererDown"}:
            assert "absent(" in rule["expr"], "no metric at all must alarm too"


def test_p3_tasks_that_airflow_gave_up_are_seen() -> None:
    """P3: long tasks killed by trouble with the execution API."""
    assert any("task_instances_without_heartbeats_killed" in rule["expr"] for rule in alerts())


def test_the_dashboard_shows_runs_gpus_and_failures() -> None:
    read = dashboard()
    assert [panel["title"] for panel in read["panels"] if panel["type"] == "row"] == [
        "Runs",
        "GPUs",
        "Failures",
    ]
    numbers = [panel["id"] for panel in read["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in read["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells


def test_grafana_finds_the_dashboard() -> None:
    made = named("prod", "ConfigMap")["perennial-dashboard"]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(made["data"]["dashboard.json"]) == dashboard()


def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(
            "promtool is missing, so Prometheus itself did not read k8s/monitoring/rules.yaml; "
            "get it with `apt-get install prometheus`"
        )
    spec = yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(spec))
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
