from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tasks.artefacts import Store
from tasks.tracking.sources import SCHEME, source_of


@pytest.fixture
def repository(store: Store, model: str):
    from tasks.tracking.plugin import StoreArtifactRepository

    return StoreArtifactRepository(source_of(store, model))


def test_mlflow_finds_it_by_entry_point() -> None:
    (found,) = entry_points(group="mlflow.artifact_repository", name=SCHEME)
    assert found.value == "tasks.tracking.plugin:StoreArtifactRepository"


def test_lists_as_mlflow_walks(repository) -> None:
    assert [(each.path, each.is_dir) for each in repository.list_artifacts()] == [
        ("config.json", False),
        ("sub", True),
    ]
    assert [each.path for each in repository.list_artifacts("sub")] == ["sub/model.safetensors"]
    assert repository.list_artifacts("config.json") == []


def test_downloads_copies(repository, store: Store, model: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    found = Path(repository.download_artifacts("", str(target)))
    assert (found / "sub" / "model.safetensors").read_bytes() == b"weights"
    (found / "config.json").write_text("changed by its new owner")
    kept = store.local_path(f"artefacts/{model}/files/config.json")
    assert kept is not None
    assert kept.read_text() == "{}"


def test_altered_weights_are_not_handed_out(repository, store: Store, model: str, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    weights = store.local_path(f"artefacts/{model}/files/sub/model.safetensors")
    assert weights is not None
    weights.chmod(0o644)
    weights.write_bytes(b"WEIGHTS")
    with pytest.raises(MlflowException, match="altered"):
        repository.download_artifacts("", str(tmp_path))


def test_serves_nothing_beside_the_artefact(repository, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    (tmp_path / "secret").write_text("secret")
    with pytest.raises(MlflowException, match="has no file"):
        repository._download_file("../../../../secret", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "source", ["perennial-file:///etc", f"perennial-file:///no/artefacts/{'0' * 64}/files"]
)
def test_a_source_that_is_no_artefact_serves_nothing(source: str) -> None:
    from mlflow.exceptions import MlflowException

    from tasks.tracking.plugin import StoreArtifactRepository

    with pytest.raises(MlflowException):
        StoreArtifactRepository(source).list_artifacts()


def test_artefacts_cannot_be_written_through_mlflow(repository) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="immutable"):
        repository.log_artifact("x")
    with pytest.raises(MlflowException, match="immutable"):
        repository.log_artifacts("x")
