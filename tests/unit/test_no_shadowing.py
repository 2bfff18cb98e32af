"""Our folders must not shadow packages of the same name, and the DAGs must not use what Airflow gave up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DEPRECATED = (
    "airflow.DAG",
    "airflow.Dataset",
    "airflow.datasets",
    "airflow.decorators",
    "airflow.exceptions",
    "airflow.hooks",
    "airflow.kubernetes",
    "airflow.models",
    "airflow.notifications",
    "airflow.operators",
    "airflow.sensors",
    "airflow.timetables",
    "airflow.utils",
    "airflow.contrib",
    "airflow.io",
    "airflow.providers.cncf.kubernetes.operators.kubernetes_pod",
)
"""Modules and names that DAGs must take from airflow.sdk (or that are gone)."""

GONE_ARGUMENTS = {
    "schedule_interval",
    "concurrency",
    "sla",
    "fail_stop",
    "sla_miss_callback",
    "provide_context",
}
"""Arguments that Airflow 3 refuses or ignores."""


@pytest.mark.parametrize("package", [pytest.param("mlflow", marks=pytest.mark.slow), "docker"])
def test_the_real_package_is_imported_from_the_root(package: str) -> None:
    """With the root first on the path, as pytest, `python -m` and a DAG bundle may have it."""
    code = f"import sys; sys.path.insert(0, '.'); import {package} as it; print(it.__version__, it.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    version, _, file = done.stdout.strip().rpartition("\n")[2].partition(" ")
    assert version[0].isdigit()
    assert not Path(file).is_relative_to(ROOT / package)


@pytest.mark.parametrize("folder", ["mlflow", "docker", "k8s"])
def test_our_folders_are_no_packages(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert list((ROOT / folder).rglob("__init__.py")) == []


def given_up(text: str) -> list[str]:
    """Deprecated imports and arguments in a DAG file's source, with their lines."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call):
            names = []
            found += [f"{node.lineno}: {word.arg}" for word in node.keywords if word.arg in GONE_ARGUMENTS]
        else:
            continue
        for name in names:
            if any(name == old or name.startswith(f"{old}.") for old in DEPRECATED):
                found.append(f"{node.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "dags").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_dags_use_nothing_that_airflow_gave_up(path: Path) -> None:
    assert given_up(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "from airflow import DAG",
        "from airflow.decorators import task",
        "from airflow.models.param import Param",
        "import airflow.utils.dates",
        "from airflow.exceptions import AirflowException",
        "DAG('x', schedule_interval='@daily')",
    ],
)
def test_what_airflow_gave_up_is_seen(text: str) -> None:
    assert len(given_up(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from airflow.sdk import DAG",
        "from airflow.sdk.exceptions import AirflowSkipException",
        "from airflow.providers.standard.operators.hitl import ApprovalOperator",
    ],
)
def test_what_airflow_offers_is_allowed(text: str) -> None:
    assert given_up(text) == []
