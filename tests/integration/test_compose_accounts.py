"""MLflow's accounts as docker/compose.yaml makes them: its secrets, its service's settings, its script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SECRETS = "/run/secrets/perennial"

MAKE = """
import os, runpy, sys
os.chown = lambda *_: None
runpy.run_path("docker/make_secrets.py", run_name="__main__")
"""

LOOK = """
import sys
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
store = SqlAlchemyStore()
store.init_db(sys.argv[1])
print({user.username: user.is_admin for user in store.list_users()})
"""


@pytest.mark.slow
def test_runs_and_steps_are_no_administrators(tmp_path: Path) -> None:
    pytest.importorskip("flask_wtf", reason="MLflow's authentication was not run; pip install 'mlflow[auth]'")
    for folder in ("airflow", "login", "mlflow", "postgres", "s3", "s3-data", "signing", "steps"):
        (tmp_path / folder).mkdir()
    python = [sys.executable, "-c"]
    subprocess.run([*python, MAKE, str(tmp_path)], cwd=ROOT, check=True)
    config, database = tmp_path / "mlflow" / "auth.ini", f"sqlite:///{tmp_path}/auth.db"
    there = "postgresql+psycopg2://mlflow@postgres:5432/mlflow"
    assert there in config.read_text()
    config.write_text(config.read_text().replace(there, database))

    service = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["accounts"]
    assert service["command"] == ["python", "/run/perennial/accounts.py"]
    told = {
        key: text.replace(SECRETS, str(tmp_path / "mlflow")) for key, text in service["environment"].items()
    }
    command = [sys.executable, str(ROOT / "mlflow" / "accounts.py")]
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-2:] == ["account admin: made", "account perennial: made"]
    seen = subprocess.run([*python, LOOK, database], capture_output=True, text=True, check=True)
    assert seen.stdout.splitlines()[-1] == "{'admin': True, 'perennial': False}"
    step = (tmp_path / "steps" / "mlflow" / "credentials").read_text()
    assert step == (tmp_path / "mlflow" / "client" / "credentials").read_text()
