"""Outside the local mode MLflow and Airflow ask who is there; in it, they listen on this machine alone.

Read from what starts a server: docker/, k8s/ and mlflow/ (manifests, values, scripts), the laptop's table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.local.places import Places, environment
from tasks.local.services import table

ROOT = Path(__file__).parents[3]
READ = {".yaml", ".yml", ".sh", ".ini", ".cfg", ".env", ".tpl", ""}

STARTS_MLFLOW = re.compile(r"\bmlflow[\"',\s]+server\b")
OPEN = {
    "all_admins": re.compile(
        r"(?i)simple_auth_manager_all_admins[\"']?\s*[:=,]\s*[\"']?(?:value:\s*)?[\"']?true"
    ),
    "anonymous writers": re.compile(r"(?im)^\s*default_permission\s*=\s*(?:EDIT|MANAGE)"),
    "no host check": re.compile(r"--disable-security-middleware|MLFLOW_SERVER_DISABLE_SECURITY"),
    "any host": re.compile(r"(?i)allowed[_-]hosts[\"']?[\s:=,]+[\"']?\*"),
    "public Airflow": re.compile(r"(?i)AUTH_ROLE_PUBLIC[\"']?\s*[:=]\s*[\"']?(?:Admin|Op|User)"),
}
"""What switches a server's guard off -> how it is written."""


def faults(text: str) -> Iterator[str]:
    """What in a file starts a server that anybody may use."""
    plain = "\n".join(line for line in text.splitlines() if not re.match(r"\s*[#;]", line))
    joined = plain.replace("\\\n", " ")
    for found in STARTS_MLFLOW.finditer(joined):
        command = joined[found.start() : found.start() + 600]
        if "basic-auth" not in command:
            yield "an MLflow server without --app-name basic-auth"
    yield from (name for name, pattern in OPEN.items() if pattern.search(joined))


def files() -> list[Path]:
    found = [
        path for top in ("docker", "k8s", "mlflow") for path in (ROOT / top).rglob("*") if path.is_file()
    ]
    return sorted(path for path in found if path.suffix in READ and ".venv" not in path.parts)


def test_no_file_starts_an_open_server() -> None:
    assert {str(path.relative_to(ROOT)): list(faults(path.read_text())) for path in files()} == {
        str(path.relative_to(ROOT)): [] for path in files()
    }


@pytest.mark.parametrize(
    "text",
    [
        "exec mlflow server --host 0.0.0.0 --port 5000",
        'command: ["mlflow", "server", "--host", "0.0.0.0"]',
        "mlflow server \\\n  --host 0.0.0.0",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS: 'True'",
        "simple_auth_manager_all_admins = true",
        "[mlflow]\ndefault_permission = MANAGE",
        "mlflow server --app-name basic-auth --disable-security-middleware",
        "MLFLOW_SERVER_ALLOWED_HOSTS: '*'",
    ],
)
def test_an_open_server_is_seen(text: str) -> None:
    assert list(faults(text))


@pytest.mark.parametrize(
    "text",
    [
        "exec mlflow server --app-name basic-auth --host 0.0.0.0",
        "exec mlflow server --host 0.0.0.0 \\\n  --app-name basic-auth",
        "# mlflow server --host 0.0.0.0",
        "simple_auth_manager_all_admins: 'False'",
        "MLFLOW_SERVER_ALLOWED_HOSTS: mlflow,mlflow:5000",
        "default_permission = READ",
    ],
)
def test_a_guarded_one_is_allowed(text: str) -> None:
    assert not list(faults(text))


def test_the_laptops_servers_listen_on_this_machine_and_airflow_asks_for_a_password(tmp_path: Path) -> None:
    places = Places(tmp_path, f"file://{tmp_path}/store", airflow_port=8080, mlflow_port=5000, health_port=9)
    (mlflow,) = (service.command for service in table(places) if service.name == "mlflow")
    assert mlflow[mlflow.index("--host") + 1] == "127.0.0.1"
    assert mlflow[mlflow.index("--allowed-hosts") + 1] == "127.0.0.1:5000,localhost:5000"
    env = environment(places)
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert env.get("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "False") == "False"
    assert Path(env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]).stat().st_mode & 0o077 == 0
