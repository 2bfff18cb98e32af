"""Serves `perennial-file://` sources to MLflow: entry point group `mlflow.artifact_repository`.

Loaded by MLflow itself, in clients and in the server. It reads nothing but the files that an artefact's own
manifest lists, each checked against its sha256, so a registered source cannot be used to read another file of
the server's disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from tasks.artefacts import Manifest, load_manifest, open_store
from tasks.recipe.failures import PerennialError
from tasks.tracking.sources import SCHEME, parse_source


class StoreArtifactRepository(ArtifactRepository):  # type: ignore[misc]
    """Read-only view of one artefact of a directory store; downloads are verified copies."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        try:
            self._source = parse_source(artifact_uri)
            self._store = open_store(self._source.store)
        except PerennialError as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Refused: an artefact is immutable."""
        self._refuse()

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Refused: an artefact is immutable."""
        self._refuse()

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """The files and folders directly under `path`; none for a file."""
        prefix = f"{path.strip('/')}/" if path and path.strip("/") else ""
        found: dict[str, FileInfo] = {}
        for entry in self._manifest().files:
            if entry.path.startswith(prefix):
                head, _, below = entry.path.removeprefix(prefix).partition("/")
                name = prefix + head
                found[name] = FileInfo(name, bool(below), None if below else entry.size)
        return list(found.values())

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        manifest = self._manifest()
        digests = {entry.path: entry.sha256 for entry in manifest.files}
        if remote_file_path not in digests:
            raise MlflowException(
                f"the artefact {self._source.digest} has no file '{remote_file_path}'",
                RESOURCE_DOES_NOT_EXIST,
            )
        key = f"artefacts/{self._source.digest}/files/{remote_file_path}"
        try:
            self._store.download(key, Path(local_path), digests[remote_file_path])
        except PerennialError as error:
            raise MlflowException(str(error), RESOURCE_DOES_NOT_EXIST) from error

    def _manifest(self) -> Manifest:
        try:
            return load_manifest(self._store, self._source.digest)
        except PerennialError as error:
            raise MlflowException(str(error), RESOURCE_DOES_NOT_EXIST) from error

    def _refuse(self) -> NoReturn:
        raise MlflowException(
            f"{SCHEME} sources are read-only: artefacts are immutable", INVALID_PARAMETER_VALUE
        )
