"""What the registry and the ledger tell of models and versions, for people's tables and for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from tasks.artefacts import Store
from tasks.recipe.failures import DataInvalid
from tasks.release.aliases import waiting
from tasks.release.audit import ledger_problems, models
from tasks.release.walk import DATA, STEP
from tasks.tracking import ledger, registry
from tasks.tracking.ledger import Line
from tasks.tracking.registry import VersionInfo


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class Brief(_Told):
    """A version in a list."""

    version: str
    semantic: str
    aliases: list[str]
    digest: str
    run: str
    decision: str
    device_hours: float | None
    cost: float | None


class ModelStory(_Told):
    """A registered model in a few words; the shape of an entry of `perennial models --json`.

    Attributes:
        champion: The version in production by the ledger, or by MLflow before the first promotion.
        since: When it was put there.
        by: By whom.
        candidate: The version that waits for a decision.
        previous: The version that a rollback would bring back.
        versions: Every version, newest first.
        problems: What is wrong with the ledger or between it and MLflow; `perennial audit` looks further.
    """

    model: str
    champion: str | None
    semantic: str | None
    since: str | None
    by: str | None
    candidate: str | None
    previous: str | None
    versions: list[Brief]
    problems: list[str]


class VersionStory(_Told):
    """A version with all that its tags lead to; the shape of `perennial show --json`.

    Attributes:
        change: Why it got its number.
        parents: Digests of the models that it was made from directly.
        base: Digests of the models from outside its run.
        data: Data set -> digest.
        steps: `step` or `step.output` -> digest.
        code: Digest of the code of its steps; the plan has it by step and folder.
        image: The container images that its steps ran in, or `process`.
        gates: Gate -> verdict.
        device_hours: Of the whole run, all attempts together.
        decisions: Every line of the ledger about it.
    """

    model: str
    version: str
    semantic: str
    change: str
    aliases: list[str]
    digest: str
    source: str
    license: str
    run: str
    mlflow_run: str
    recipe: str
    recipe_digest: str
    plan: str
    intent: str
    code: str
    image: str
    parents: list[str]
    base: list[str]
    data: dict[str, str]
    steps: dict[str, str]
    report: str
    card: str
    gates: dict[str, str]
    device_hours: float | None
    cost: float | None
    energy_kwh: float | None
    signed_by: str
    tags: dict[str, str] = Field(exclude=True)
    decisions: list[Line]


class History(_Told):
    """A model's ledger; the shape of `perennial history --json`.

    Attributes:
        at: The moment that was asked for, None for now.
        champion: The version in production then.
        lines: The lines until then, oldest first.
        problems: What is wrong with the ledger or between it and MLflow.
    """

    model: str
    at: str | None
    champion: str | None
    previous: str | None
    lines: list[Line]
    problems: list[str]


def model_stories(store: Store) -> list[ModelStory]:
    """Every model that MLflow or a ledger knows."""
    return [model_story(store, model) for model in models(store)]


def model_story(store: Store, model: str) -> ModelStory:
    """One model; where its ledger cannot be trusted, what MLflow says and the problem."""
    versions, aliases = registry.versions(model), registry.aliases(model)
    lines = _lines(store, model)
    now, moves = ledger.standing(lines), [line for line in lines if line.action in ledger.MOVES]
    champion = now.champion if moves else aliases.get("champion")
    held = _by_version(aliases)
    return ModelStory(
        model=model,
        champion=champion,
        semantic=next((each.semantic for each in versions if each.version == champion), None),
        since=moves[-1].time if moves else None,
        by=moves[-1].actor if moves else None,
        candidate=waiting(lines) if lines else aliases.get("candidate"),
        previous=now.previous if moves else aliases.get("previous"),
        versions=[_brief(each, held) for each in reversed(versions)],
        problems=ledger_problems(store, model),
    )


def version_story(store: Store, model: str, version: str) -> VersionStory:
    """One version.

    Raises:
        ConfigInvalid: There is none.
    """
    found = registry.version(model, version)
    tags = found.tags
    held = _by_version(registry.aliases(model))
    return VersionStory(
        model=model,
        version=found.version,
        semantic=found.semantic,
        change=tags.get("perennial.version_reason", ""),
        aliases=held.get(found.version, []),
        digest=found.digest,
        source=found.source,
        license=tags.get("perennial.license", ""),
        run=tags.get("perennial.run", ""),
        mlflow_run=found.run_id,
        recipe=tags.get("perennial.recipe", ""),
        recipe_digest=tags.get("perennial.recipe_digest", ""),
        plan=tags.get("perennial.plan", ""),
        intent=tags.get("perennial.intent", ""),
        code=tags.get("perennial.code", ""),
        image=tags.get("perennial.image", ""),
        parents=json.loads(tags.get("perennial.parents", "[]")),
        base=json.loads(tags.get("perennial.base", "[]")),
        data=_under(tags, DATA),
        steps=_under(tags, STEP),
        report=tags.get("perennial.report", ""),
        card=tags.get("perennial.card", ""),
        gates=json.loads(tags.get("perennial.gates", "{}")),
        device_hours=_number(tags, "device_hours"),
        cost=_number(tags, "cost"),
        energy_kwh=_number(tags, "energy_kwh"),
        signed_by=tags.get("perennial.signed_by", ""),
        tags=dict(tags),
        decisions=[
            line for line in _lines(store, model) if found.version in (line.to_version, line.from_version)
        ],
    )


def history(store: Store, model: str, at: str | None = None) -> History:
    """A model's ledger up to a moment.

    Raises:
        ConfigInvalid: `at` is no date.
        DataInvalid: The ledger was tampered with.
    """
    lines = ledger.history(store, model, at)
    now = ledger.standing(lines)
    return History(
        model=model,
        at=at,
        champion=now.champion,
        previous=now.previous,
        lines=lines,
        problems=ledger_problems(store, model),
    )


def _lines(store: Store, model: str) -> list[Line]:
    """The ledger's lines; none where they cannot be trusted, which `ledger_problems` tells."""
    try:
        return ledger.history(store, model)
    except DataInvalid:
        return []


def _brief(version: VersionInfo, held: Mapping[str, list[str]]) -> Brief:
    return Brief(
        version=version.version,
        semantic=version.semantic,
        aliases=held.get(version.version, []),
        digest=version.digest,
        run=version.tags.get("perennial.run", ""),
        decision=version.tags.get("perennial.decision", ""),
        device_hours=_number(version.tags, "device_hours"),
        cost=_number(version.tags, "cost"),
    )


def _by_version(aliases: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for alias, number in sorted(aliases.items()):
        found.setdefault(number, []).append(alias)
    return found


def _under(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): tags[name] for name in sorted(tags) if name.startswith(prefix)}


def _number(tags: Mapping[str, str], name: str) -> float | None:
    value = tags.get(f"perennial.{name}")  # a cost ends with its currency
    return None if value is None else float(value.partition(" ")[0])
