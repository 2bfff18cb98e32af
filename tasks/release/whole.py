"""The model directory behind a version: its own files, or its base with its adapter merged into it."""

from __future__ import annotations

from pathlib import Path

from tasks.artefacts import Store, fetch, load_manifest
from tasks.recipe.failures import ConfigInvalid
from tasks.tracking.registry import VersionInfo


def whole_model(store: Store, digest: str, *, cache: Path, scratch: Path) -> Path:
    """A verified directory with a whole model, only to be read.

    Args:
        store: Holds the artefact, and the base where it is an adapter.
        digest: Of a model or an adapter.
        cache: For artefacts fetched from a remote store.
        scratch: A folder to be made, for an adapter merged into its base.

    Raises:
        ConfigInvalid: It is neither, or the adapter is not bound to its base.
        Infrastructure: Something is missing or altered.
    """
    manifest = load_manifest(store, digest)
    if manifest.kind == "model":
        return fetch(store, digest, cache)
    if manifest.kind != "adapter":
        raise ConfigInvalid(
            f"the artefact {digest} is of kind '{manifest.kind}', neither a model nor an adapter"
        )
    from tasks.training.trainable.adapter_files import base_of, merged

    adapter = fetch(store, digest, cache)
    base = base_of(adapter)
    return merged(fetch(store, base.digest, cache), base.digest, [adapter], scratch)


def model_digest(version: VersionInfo) -> str:
    """The digest of the whole model that a version stands for, where steps and reports read one.

    Raises:
        ConfigInvalid: It is an adapter, and its step kept no whole model.
    """
    found = whole_digest(version)
    if found is None:
        raise ConfigInvalid(
            f"version {version.version} of '{version.name}' is an adapter, and its tags name no whole model "
            f"made with it; make one: `perennial export {version.name} {version.version} --to huggingface "
            "--out DIR`, and refer to it by file://, or in a recipe to a step's output: champion.<step>.model"
        )
    return found


def whole_digest(version: VersionInfo) -> str | None:
    """The digest of the whole model that a version stands for: its own, or that made beside its adapter.

    None where a version is an adapter and its tags name no whole model made by the same step.
    """
    for tag, digest in version.tags.items():
        step, _, output = tag.removeprefix("perennial.step.").partition(".")
        if digest == version.digest and (tag, output) == (f"perennial.step.{step}.adapter", "adapter"):
            return version.tags.get(f"perennial.step.{step}.model")
    return version.digest
