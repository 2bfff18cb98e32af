"""Every registered version accounted for: weights, data, recipe, report, card, parents, run, ledger.

Nothing is changed. What is found is told with what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.artefacts import Store, problems
from tasks.recipe.failures import DataInvalid
from tasks.release.aliases import RESTORE, behind, lost
from tasks.release.walk import Part, walk
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class Finding(_Said):
    """Something that is wrong.

    Attributes:
        version: MLflow's number; "" for the model as a whole.
        part: What it is about.
        name: Which one: a data set, a parent's step.
        problem: In words.
        remedy: What to do.
    """

    version: str
    part: Part | Literal["ledger", "aliases", "number"]
    name: str
    problem: str
    remedy: str


class Audited(_Said):
    """One version.

    Attributes:
        sound: Nothing is wrong with it.
    """

    version: str
    semantic: str
    aliases: list[str]
    sound: bool


class Audit(_Said):
    """A model's registry, looked at whole; the shape of `perennial audit --json`."""

    model: str
    versions: list[Audited]
    lines: int
    findings: list[Finding]


def audit(store: Store, model: str) -> Audit:
    """Look at every version of a model and at its ledger.

    Raises:
        Infrastructure: The store or MLflow is unreachable.
    """
    versions, aliases = registry.versions(model), registry.aliases(model)

    @cache
    def damage(digest: str) -> list[str]:
        return problems(store, digest)

    findings = [
        Finding(
            version=version.version,
            part=place.part,
            name=place.name,
            problem=place.problem,
            remedy=place.remedy,
        )
        for version in versions
        for place in walk(store, version, damage)
        if place.problem
    ]
    findings += _twins(versions)
    lines, told = _ledger(store, model, versions)
    findings += told
    if lines is not None:
        findings += _against_ledger(store, model, lines, versions, aliases)
    wrong = {finding.version for finding in findings}
    return Audit(
        model=model,
        versions=[
            Audited(
                version=each.version,
                semantic=each.semantic,
                aliases=sorted(alias for alias, held in aliases.items() if held == each.version),
                sound=each.version not in wrong,
            )
            for each in versions
        ],
        lines=len(lines or ()),
        findings=findings,
    )


def models(store: Store) -> list[str]:
    """Every model that MLflow or a ledger knows, by name."""
    ledgers = {stat.key.split("/")[1] for stat in store.list("ledger/")}
    return sorted({*registry.models(), *ledgers})


def ledger_problems(store: Store, model: str) -> list[str]:
    """What is wrong with a model's ledger, or between it and MLflow, in words; a part of `audit`."""
    versions, aliases = registry.versions(model), registry.aliases(model)
    lines, told = _ledger(store, model, versions)
    if lines is not None:
        told += _against_ledger(store, model, lines, versions, aliases)
    return [f"{each.problem}; {each.remedy}" for each in told]


def _ledger(
    store: Store, model: str, versions: Sequence[VersionInfo]
) -> tuple[list[ledger.Line] | None, list[Finding]]:
    """The ledger's lines, None where they cannot be trusted, and why."""
    try:
        lines = ledger.history(store, model)
    except DataInvalid as error:
        problem, _, remedy = str(error).rpartition(". ")
        return None, [_about("", "ledger", problem or str(error), remedy or RESTORE)]
    if found := lost(store, model, lines, versions):
        return None, [_about("", "ledger", *found)]
    return lines, []


def _against_ledger(
    store: Store,
    model: str,
    lines: Sequence[ledger.Line],
    versions: Sequence[VersionInfo],
    aliases: dict[str, str],
) -> list[Finding]:
    """Where the ledger and MLflow say different things."""
    found = []
    repair = f"`perennial audit {model} --repair`, or the next decision, moves MLflow to what the ledger says"
    found += [
        _about("", "aliases", f"MLflow is behind the ledger: {each}", repair)
        for each in behind(lines, aliases, versions)
    ]
    first = {line.to_version: line for line in reversed(lines) if line.action == "register"}
    for each in versions:
        line = first.get(each.version)
        if line is None:
            told = "the ledger has no line of its registration: it was registered by other means, or halfway"
            plan = each.tags.get("perennial.plan")
            remedy = f"`perennial register --plan {plan}` completes it" if plan else "delete it in MLflow"
            found.append(_about(each.version, "ledger", told, remedy))
        elif line.to_digest != each.digest:
            told = f"the ledger has it as the model {line.to_digest}, and MLflow as {each.digest or 'none'}"
            found.append(
                _about(each.version, "ledger", told, "somebody changed its tags in MLflow: set them right")
            )
    there = {each.version for each in versions}
    gone = {line.to_version for line in lines if line.action == "delete"}
    again = {line.run for line in first.values() if line.run and line.to_version in there}
    gone |= {line.to_version for line in first.values() if line.run in again}  # its run is registered anew
    for line in lines:
        if line.to_version not in there | gone:
            told = f"it is on record (line {line.seq}), and was deleted in MLflow behind the ledger's back"
            remedy = "restore MLflow's database from a backup"
            if line.run:
                plan = store.locate(f"runs/{line.run}/plan.json")
                remedy += f", or `perennial register --plan {plan}`, which gives it a new number"
            found.append(_about(line.to_version, "ledger", told, remedy))
            gone.add(line.to_version)
    return found


def _twins(versions: Sequence[VersionInfo]) -> list[Finding]:
    """Different models under one semantic version."""
    first: dict[str, VersionInfo] = {}
    found = []
    for each in versions:
        other = first.setdefault(each.semantic, each)
        if each.semantic and other.digest != each.digest:
            told = f"it calls itself {each.semantic}, which is version {other.version}, another model"
            remedy = "it is never promoted; delete it and register its run again, which derives a number"
            found.append(_about(each.version, "number", told, remedy))
    return found


def _about(version: str, part: Literal["ledger", "aliases", "number"], problem: str, remedy: str) -> Finding:
    return Finding(version=version, part=part, name="", problem=problem, remedy=remedy)
