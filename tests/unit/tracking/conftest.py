"""MLflow on a SQLite file of its own for each test, copied from one that is migrated once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.artefacts import Store, commit, open_store
from tasks.tracking.server import call


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "mlflow-template.db"
    if not path.exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
            call("migrate", lambda client: client.search_experiments())
    return path


@pytest.fixture(autouse=True)
def tracking(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copyfile(migrated, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def model(store: Store, tmp_path: Path) -> str:
    """The digest of an artefact that looks like a model."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "model.safetensors").write_bytes(b"weights")
    return commit(store, folder, kind="model", parents=[], producer="test", meta={}).digest
