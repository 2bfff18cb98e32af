"""Registered model versions: weights by reference, lineage as tags, three aliases.

Aliases are read with get_model_version_by_alias and get_registered_model only: MLflow's search always returns
versions without their aliases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artefacts import fetch, open_store
from tasks.recipe.failures import ConfigInvalid
from tasks.tracking.server import call, code_of
from tasks.tracking.sources import SCHEME, parse_source

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

ALIASES = ("candidate", "champion", "previous")
STATED = "perennial.stated"
"""Digest of what the recipe states for the model's card."""

MISSING = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"})


@dataclass(frozen=True)
class VersionInfo:
    """One version of a registered model.

    Attributes:
        name: The registered model.
        version: MLflow's number, as text.
        digest: Digest of the model's artefact (the tag `perennial.candidate`).
        source: URI of the weights in the store.
        semantic: Semantic version, e.g. "1.2.0"; "" if it was registered by other means.
        run_id: MLflow run that made it; "" if unknown.
    """

    name: str
    version: str
    digest: str
    source: str
    semantic: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


def register(
    model: str, source: str, run_id: str, tags: Mapping[str, str], description: str = ""
) -> VersionInfo:
    """Create a version by reference; the same candidate, report and statements get the version they have.

    Args:
        model: Registered model's name, without `/` and `:`.
        source: As tasks.tracking.sources.source_of makes it.
        run_id: MLflow run of the release.
        tags: Lineage; must hold `perennial.candidate` and `perennial.report`.
        description: Shown on the version's page.

    Raises:
        ConfigInvalid: The model's name is not allowed.
        Infrastructure: MLflow is unreachable.
    """
    if not model or set(model) & set("/:") or not parse_source(source).digest == tags["perennial.candidate"]:
        raise ConfigInvalid(
            f"cannot register '{source}' as model '{model}': the name may not hold '/' or ':', and the "
            f"source must be the artefact of the tag perennial.candidate ({tags['perennial.candidate']})"
        )

    def act(client: MlflowClient) -> VersionInfo:
        _ensure_model(client, model)
        for known in _versions(client, model):
            if is_same(known, tags):
                return known
        made = client.create_model_version(
            model, source, run_id=run_id, tags=dict(tags), description=description, await_creation_for=0
        )
        return _info(client.get_model_version(model, made.version))

    return call(f"register a version of '{model}'", act)


def is_same(version: VersionInfo, tags: Mapping[str, str]) -> bool:
    """Whether a version is what these tags describe: the same model, evidence and statements of the recipe.

    One from before there were statements has none, and is made by its model and evidence alone.
    """
    held = version.tags
    return all(held.get(name) == tags[name] for name in ("perennial.candidate", "perennial.report")) and (
        held.get(STATED, tags.get(STATED)) == tags.get(STATED)
    )


def versions(model: str) -> list[VersionInfo]:
    """Every version of a model, oldest first; none if the model is not registered."""
    return call(f"list the versions of '{model}'", lambda client: _versions(client, model))


def models() -> list[str]:
    """The names of all registered models."""

    def act(client: MlflowClient) -> list[str]:
        return [str(each.name) for each in _pages(client.search_registered_models, max_results=100)]

    return call("list the registered models", act)


def aliases(model: str) -> dict[str, str]:
    """Alias -> version number; empty if the model is not registered."""

    def act(client: MlflowClient) -> dict[str, str]:
        from mlflow.exceptions import MlflowException

        try:
            return {str(a): str(v) for a, v in client.get_registered_model(model).aliases.items()}
        except MlflowException as error:
            if code_of(error) in MISSING:
                return {}
            raise

    return call(f"read the aliases of '{model}'", act)


def find_version(model: str, name: str, tracking: str | None = None) -> VersionInfo | None:
    """The version with this alias or number, or None.

    Args:
        model: Registered model's name.
        name: Alias or number.
        tracking: URI of MLflow; None for what the environment says.
    """

    def act(client: MlflowClient) -> VersionInfo | None:
        from mlflow.exceptions import MlflowException

        try:
            if name.isdigit():
                return _info(client.get_model_version(model, name))
            # MLflow answers a missing alias with INVALID_PARAMETER_VALUE, so ask for the aliases instead.
            number = client.get_registered_model(model).aliases.get(name)
            return None if number is None else _info(client.get_model_version(model, str(number)))
        except MlflowException as error:
            if code_of(error) in MISSING:
                return None
            raise

    return call(f"read version '{name}' of '{model}'", act, tracking)


def version(model: str, name: str, tracking: str | None = None) -> VersionInfo:
    """The version with this alias or number.

    Raises:
        ConfigInvalid: There is none; the message lists what there is.
    """
    found = find_version(model, name, tracking)
    if found is None:
        held = ", ".join(f"{alias} = {number}" for alias, number in sorted(aliases(model).items()))
        numbers = ", ".join(each.version for each in versions(model))
        raise ConfigInvalid(
            f"model '{model}' has no version '{name}' in MLflow; versions: {numbers or 'none'}; "
            f"aliases: {held or 'none'}"
        )
    return found


def resolve(uri: str, tracking: str | None = None) -> VersionInfo:
    """The version behind `models:/name@alias` or `models:/name/3`.

    Raises:
        ConfigInvalid: Another form, or no such version.
    """
    path = uri.removeprefix("models:/")
    for separator in ("@", "/"):
        model, found, name = path.partition(separator)
        if path != uri and model and found and name:
            return version(model, name, tracking)
    raise ConfigInvalid(
        f"'{uri}' is no reference to a registered model; write models:/name@alias or models:/name/3"
    )


def set_alias(model: str, alias: str, number: str) -> None:
    """Point an alias at a version."""
    _known(alias)
    call(f"set '{alias}' of '{model}'", lambda c: c.set_registered_model_alias(model, alias, number))


def delete_alias(model: str, alias: str) -> None:
    """Take an alias away; no error if it is not set."""
    _known(alias)
    call(f"remove '{alias}' of '{model}'", lambda c: c.delete_registered_model_alias(model, alias))


def tag_version(model: str, number: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version."""

    def act(client: MlflowClient) -> None:
        for name, value in tags.items():
            client.set_model_version_tag(model, number, name, value)

    call(f"tag version {number} of '{model}'", act)


def describe_version(model: str, number: str, text: str) -> None:
    """Set what a version's page says of it."""
    what = f"describe version {number} of '{model}'"
    call(what, lambda client: client.update_model_version(model, number, description=text))


def delete_version(model: str, number: str) -> None:
    """Remove a version; no error if it is gone. Aliases that name it go with it, so ask first."""

    def act(client: MlflowClient) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.delete_model_version(model, number)
        except MlflowException as error:
            if code_of(error) not in MISSING:
                raise

    call(f"delete version {number} of '{model}'", act)


def local_path(info: VersionInfo, cache: Path) -> Path:
    """The verified directory with a version's files: in the store itself where it is local, else in `cache`.

    Raises:
        Infrastructure: The store is unreachable, or the artefact is missing or altered.
    """
    place = parse_source(info.source)
    return fetch(open_store(place.store), place.digest, cache)


def enable_scheme() -> None:
    """Make this process's MLflow serve our sources where the package's entry points are not installed."""
    from mlflow.store.artifact import artifact_repository_registry as mlflow_registry

    from tasks.tracking.plugin import StoreArtifactRepository

    mlflow_registry._artifact_repository_registry.register(SCHEME, StoreArtifactRepository)


def _known(alias: str) -> None:
    if alias not in ALIASES:
        raise ConfigInvalid(f"'{alias}' is no alias of ours; the aliases are {', '.join(ALIASES)}")


def _ensure_model(client: MlflowClient, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model)
    except MlflowException as error:
        if code_of(error) not in MISSING:
            raise
        try:
            client.create_registered_model(model, description="Kept current by Perennial.")
        except MlflowException as raced:
            if code_of(raced) != "RESOURCE_ALREADY_EXISTS":
                raise


def _versions(client: MlflowClient, model: str) -> list[VersionInfo]:
    if "'" in model:
        raise ConfigInvalid(f"the model name {model!r} holds a quote, which MLflow cannot search for")
    found = _pages(client.search_model_versions, filter_string=f"name='{model}'", max_results=100)
    return sorted(map(_info, found), key=lambda info: int(info.version))


def _pages(search: Any, **arguments: Any) -> list[Any]:
    found, token = [], None
    while True:
        page = search(page_token=token, **arguments)
        found += page
        token = page.token
        if not token:
            return found


def _info(found: ModelVersion) -> VersionInfo:
    tags = {str(name): str(value) for name, value in found.tags.items()}
    return VersionInfo(
        name=str(found.name),
        version=str(found.version),
        digest=tags.get("perennial.candidate", ""),
        source=str(found.source),
        semantic=tags.get("perennial.semantic_version", ""),
        run_id=str(found.run_id or ""),
        tags=tags,
        description=str(found.description or ""),
    )
