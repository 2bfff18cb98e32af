"""The cluster's double and the store's, with settings that make a try take milliseconds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tenacity
from airflow.providers.cncf.kubernetes import kubernetes_helper_functions
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from runtimes import kubernetes, steps

from tests.integration.kubernetes_api import KubernetesApi
from tests.integration.kubernetes_runtime.task import IMAGE, attempt_of
from tests.integration.store_double import StoreDouble


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> StoreDouble:
    made = StoreDouble(attempt_of)
    monkeypatch.setattr(steps, "answer", made.answer)
    return made


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: StoreDouble) -> Iterator[KubernetesApi]:
    with KubernetesApi(pause=0.02) as made:
        monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path)))
        monkeypatch.setenv("PERENNIAL_STORE", f"file://{tmp_path}/store")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
        monkeypatch.setenv("PERENNIAL_IMAGE_TRAINER", IMAGE)
        # The same code with shorter pauses; the numbers of tries stay.
        monkeypatch.setenv("PERENNIAL_POLL_SECONDS", "0.05")
        monkeypatch.setattr(kubernetes, "LOG_SECONDS", 0.1)
        monkeypatch.setattr(kubernetes, "COME_BACK_SECONDS", 0.05)
        monkeypatch.setattr(kubernetes_helper_functions, "_default_wait", tenacity.wait_fixed(0.01))
        monkeypatch.setattr(KubernetesPodTrigger._get_pod.retry, "wait", tenacity.wait_fixed(0.01))
        yield made


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was logged so far, wherever Airflow's logging sends it."""
    caplog.set_level(logging.INFO)
    heard: list[str] = []

    def so_far() -> str:
        heard.append(capsys.readouterr().out)
        return "".join([*heard, caplog.text])

    return so_far


@pytest.fixture
def short_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates whose pods may wait for a node, and for their start, for less than a second."""
    shipped = (Path(__file__).parents[3] / "k8s" / "pod_templates" / "gpu.yaml").read_text()
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "gpu.yaml").write_text(
        shipped.replace('schedule-seconds: "86400"', 'schedule-seconds: "0"').replace(
            'startup-seconds: "1800"', 'startup-seconds: "0"'
        )
    )
    monkeypatch.setenv("PERENNIAL_POD_TEMPLATES", str(folder))
