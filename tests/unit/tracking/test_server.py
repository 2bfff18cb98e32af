from __future__ import annotations

from pathlib import Path

import pytest

from tasks.recipe.failures import ConfigInvalid, Infrastructure
from tasks.tracking import server


def failing(times: int, error: Exception):
    """An act that fails that many times and then answers how often it was called."""
    calls = []

    def act(client: object) -> int:
        calls.append(client)
        if len(calls) <= times:
            raise error
        return len(calls)

    return act, calls


@pytest.fixture(autouse=True)
def short(tracking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.call("open the database", lambda client: None)
    monkeypatch.setattr(server, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(server, "LIMIT_SECONDS", 0.1)


def test_laptop_database_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    assert server.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert server.artifact_location() == (tmp_path / "mlartifacts").as_uri()


def test_server_decides_where_its_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert server.artifact_location() is None


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "databricks"])
def test_uri_without_a_registry_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigInvalid, match="no model registry"):
        server.tracking_uri()


def test_passing_trouble_is_retried() -> None:
    act, calls = failing(2, OSError("connection reset"))
    assert server.call("read", act) == 3
    assert len(calls) == 3


def test_lasting_trouble_names_server_deed_and_remedy(tracking: str) -> None:
    act, calls = failing(1000, OSError("connection refused"))
    with pytest.raises(Infrastructure) as raised:
        server.call("open the run 'r'", act)
    assert 1 < len(calls) < 20
    for part in (tracking, "open the run 'r'", "connection refused", "retry"):
        assert part in str(raised.value)


def test_own_failures_are_not_retried() -> None:
    act, calls = failing(1, ConfigInvalid("a wrong name"))
    with pytest.raises(ConfigInvalid, match="a wrong name"):
        server.call("read", act)
    assert len(calls) == 1


def test_wrong_requests_are_the_callers_business() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    act, calls = failing(1, MlflowException("bad name", INVALID_PARAMETER_VALUE))
    with pytest.raises(MlflowException, match="bad name"):
        server.call("read", act)
    assert len(calls) == 1


def test_a_lost_race_is_run_again() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST

    race = MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: ... alias", BAD_REQUEST)
    act, calls = failing(1, race)
    assert server.call("set 'previous'", act) == 2
    assert len(calls) == 2


def test_refused_access_is_told_at_once() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    act, calls = failing(1, MlflowException("DNS rebinding", PERMISSION_DENIED))
    with pytest.raises(Infrastructure, match="MLFLOW_SERVER_ALLOWED_HOSTS"):
        server.call("read", act)
    assert len(calls) == 1
