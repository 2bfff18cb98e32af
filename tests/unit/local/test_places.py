"""Where the laptop's services live: private secrets, this machine alone, free ports."""

from __future__ import annotations

import json
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.local import places
from tasks.local.places import HOST, Places, choose, environment, login, secret_values
from tasks.runner.settings import Settings


def places_in(folder: Path) -> Places:
    return Places(folder, f"file://{folder}/store", airflow_port=8080, mlflow_port=5000, health_port=9)


def test_secrets_are_made_once_and_are_private(tmp_path: Path) -> None:
    made = secret_values(tmp_path)
    assert secret_values(tmp_path) == made
    for path in (tmp_path / "secrets.json", tmp_path / "airflow" / "passwords.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert login(tmp_path) == ("admin", made["password"])
    assert len(set(made.values())) == len(made)


def test_no_two_homes_share_a_secret(tmp_path: Path) -> None:
    one, other = secret_values(tmp_path / "one"), secret_values(tmp_path / "other")
    assert not set(one.values()) & set(other.values())


def test_a_taken_port_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(tmp_path, f"file://{tmp_path}/store", "")
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        with ExitStack() as held:
            found = choose(settings, held, airflow_port=taken)
    assert found.airflow_port != taken
    assert len({found.airflow_port, found.mlflow_port, found.health_port}) == 3


def test_a_port_that_another_start_was_given_is_not_given_again(tmp_path: Path) -> None:
    settings = Settings(tmp_path, f"file://{tmp_path}/store", "")
    with ExitStack() as first, ExitStack() as second:
        one = choose(settings, first, airflow_port=0, mlflow_port=0)
        other = choose(settings, second, airflow_port=one.airflow_port, mlflow_port=one.mlflow_port)
        assert not {one.airflow_port, one.mlflow_port} & {other.airflow_port, other.mlflow_port}
    with ExitStack() as third:
        assert places._reserve(one.airflow_port, third), "it is kept after both have started"


def test_everything_listens_on_this_machine_alone(tmp_path: Path) -> None:
    env = environment(places_in(tmp_path))
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert env["AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST"] == "127.0.0.1"
    assert env["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_all_state_lies_under_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    env = environment(places_in(tmp_path))
    named = ("AIRFLOW_HOME", "PERENNIAL_HOME", "PERENNIAL_STORE", "TORCH_EXTENSIONS_DIR")
    for name in (*named, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__LOGGING__BASE_LOG_FOLDER"):
        assert str(tmp_path) in env[name], name


def test_nothing_is_reported_to_anyone(tmp_path: Path) -> None:
    env = environment(places_in(tmp_path))
    assert env["GX_ANALYTICS_ENABLED"] == "false"
    assert env["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert env["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert (
        json.loads((tmp_path / "secrets.json").read_text())["jwt_secret"]
        == env["AIRFLOW__API_AUTH__JWT_SECRET"]
    )
