"""From a version to everything that it came from: each place its tags lead to, and what is wrong there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from tasks.artefacts import ObjectMissing, Store, problems
from tasks.recipe.failures import PerennialError
from tasks.recipe.fingerprints import canonical
from tasks.release import signature
from tasks.release.cards import read_card
from tasks.release.records import PARENTS, StepRecord
from tasks.tracking import runs
from tasks.tracking.registry import VersionInfo
from tasks.tracking.sources import parse_source

Part = Literal["weights", "data", "recipe", "report", "card", "parents", "run", "signature"]

DATA = "perennial.data."
STEP = "perennial.step."

Damage = Callable[[str], list[str]]
"""Digest of an artefact -> what is wrong with it."""


@dataclass(frozen=True)
class Place:
    """One thing that a version leads to.

    Attributes:
        part: What it is of the version.
        name: Which one, e.g. the data set's name.
        where: Its URI, or the digest of what has none.
        problem: Why it cannot be relied on, "" where it can.
        remedy: What to do about that.
    """

    part: Part
    name: str
    where: str
    problem: str = ""
    remedy: str = ""


def walk(store: Store, version: VersionInfo, damage: Damage | None = None) -> Iterator[Place]:
    """Everything that a version is and came from, each place looked at.

    Args:
        store: Holds it.
        version: The version.
        damage: Looks at an artefact; by default every byte is read anew for each version.
    """
    if not version.digest:
        yield Place(
            "weights",
            "model",
            version.source,
            "it has no tag perennial.candidate: it was not registered by Perennial, nothing proves it",
            f"delete it in MLflow, or register its model by a recipe (model {version.name})",
        )
        return
    look = damage or (lambda digest: problems(store, digest))
    records = _records(store, version)
    yield _weights(store, version, look, records)
    yield from _artefacts(store, version, look, records)
    yield from _plan(store, version)
    yield _card(store, version)
    yield from _run(store, version, records)
    yield _signature(store, version)


def _weights(store: Store, version: VersionInfo, look: Damage, records: dict[str, StepRecord]) -> Place:
    where = store.locate(f"artefacts/{version.digest}")
    try:
        source = parse_source(version.source)
    except PerennialError as error:
        return Place("weights", "model", where, str(error), _again(version, records, "candidate"))
    if source.digest != version.digest:
        told = (
            f"its source {version.source} is another model than its tag perennial.candidate {version.digest}"
        )
        return Place(
            "weights", "model", where, told, "somebody changed one of the two: compare its signature"
        )
    again = _again(version, records, "candidate")
    return _judged("weights", "model", where, look(version.digest), again)


def _artefacts(
    store: Store, version: VersionInfo, look: Damage, records: dict[str, StepRecord]
) -> Iterator[Place]:
    """Data, report and the models that it was made from."""
    tags = version.tags

    def artefact(part: Part, name: str, digest: str, remedy: str) -> Place:
        return _judged(part, name, store.locate(f"artefacts/{digest}"), look(digest), remedy)

    for tag in sorted(tags):
        if tag.startswith(DATA):
            remedy = "plan its recipe again, which reads the source anew, or restore it from a backup"
            yield artefact("data", tag.removeprefix(DATA), tags[tag], remedy)
    if tags.get("perennial.report"):
        yield artefact("report", "report", tags["perennial.report"], _again(version, records, "report"))
    else:
        yield Place(
            "report", "report", "", "it has no report: no evidence", "delete it, and register its run again"
        )
    found = _parents(version, records)
    if found is None:
        told = "nothing says what it was made from: its tags do not, and its run's records are gone"
        yield Place("parents", "parents", "", told, "restore the run's folder from a backup of the store")
        return
    for digest in found:
        made = _maker(records, digest)
        remedy = "restore it from a backup of the store"
        if made:
            remedy = f"`perennial step --plan {tags.get('perennial.plan')} --step {made}` makes it again"
        yield artefact("parents", made or digest[:12], digest, remedy)


def _parents(version: VersionInfo, records: dict[str, StepRecord]) -> list[str] | None:
    """The models that a version was made from, by its tags, or else by its run's records."""
    if "perennial.parents" in version.tags:
        listed = (version.tags.get(tag, "[]") for tag in ("perennial.parents", "perennial.base"))
        return list(dict.fromkeys(str(digest) for text in listed for digest in json.loads(text)))
    maker = next((each for each in records.values() if version.digest in _made(each)), None)
    if maker is None:
        return None
    models = {out.digest for each in records.values() for out in each.outputs.values() if out.kind in PARENTS}
    return sorted({digest for many in maker.inputs.values() for digest in many} & models)


def _plan(store: Store, version: VersionInfo) -> Iterator[Place]:
    """The frozen recipe, as the version's tags describe it."""
    where, key = version.tags.get("perennial.plan", ""), _plan_key(version)
    remedy = "restore the run's folder from a backup of the store"
    if not key:
        yield Place("recipe", "plan", where, "it does not say by which plan it was made", remedy)
        return
    try:
        plan: dict[str, Any] = json.loads(store.read(key))
    except ObjectMissing:
        yield Place("recipe", "plan", where, "the plan is gone", remedy)
        return
    except ValueError as error:
        yield Place("recipe", "plan", where, f"the plan cannot be read: {error}", remedy)
        return
    found = []
    if plan.get("recipe_digest") != version.tags.get("perennial.recipe_digest"):
        found.append("the plan is of another recipe than the version says")
    code = hashlib.sha256(canonical(plan.get("code") or {})).hexdigest()
    if version.tags.get("perennial.code", code) != code:
        found.append("the plan is of other code than the version says")
    yield _judged("recipe", "plan", where, found, remedy)


def _card(store: Store, version: VersionInfo) -> Place:
    where = version.tags.get("perennial.card", "")
    try:
        read_card(store, version)
    except PerennialError as error:
        # Its message names the version, and ends with the remedy.
        problem, _, remedy = str(error).partition("; ")
        return Place("card", "card", where, problem.partition(": ")[2] or problem, remedy)
    return Place("card", "card", store.locate(f"cards/{where}.md"))


def _run(store: Store, version: VersionInfo, records: dict[str, StepRecord]) -> Iterator[Place]:
    """The records of its steps, as its tags have them, and its MLflow run."""
    run = version.tags.get("perennial.run", "")
    where = store.locate(f"runs/{run}/steps") if run else ""
    steps = sorted(tag.removeprefix(STEP) for tag in version.tags if tag.startswith(STEP))
    wanted = [name for name in steps if "." not in name]
    found = [f"step '{name}' has no readable record" for name in wanted if name not in records]
    for name in steps:
        step, _, output = name.partition(".")
        record = records.get(step)
        made = record.outputs.get(output) if record and output else None
        if made is not None and made.digest != version.tags[STEP + name]:
            found.append(f"the record of step '{step}' has another {output} than the version says")
    yield _judged("run", "steps", where, found, "restore the run's folder from a backup of the store")
    if version.run_id and not runs.exists(version.run_id):
        told = "its MLflow run was deleted, and its curves and documents with it"
        yield Place("run", "mlflow", version.run_id, told, f"`mlflow runs restore --run-id {version.run_id}`")
    else:
        yield Place("run", "mlflow", version.run_id)


def _signature(store: Store, version: VersionInfo) -> Place:
    where = store.locate(f"signatures/{version.name}/{version.version}.json")
    try:
        signature.verify(store, version)
    except PerennialError as error:
        sign = f"`perennial sign {version.name} {version.version} --by YOU`"
        remedy = f"find out why; if it is right as it is, {sign}"
        return Place("signature", "signature", where, str(error), remedy)
    return Place("signature", "signature", where)


def _records(store: Store, version: VersionInfo) -> dict[str, StepRecord]:
    """The records of its run that are there and can be read, by step."""
    run = version.tags.get("perennial.run", "")
    found = {}
    for stat in list(store.list(f"runs/{run}/steps/")) if run else []:
        try:
            record = StepRecord.model_validate_json(store.read(stat.key))
        except (ValidationError, ObjectMissing):
            continue
        found[record.step] = record
    return found


def _made(record: StepRecord) -> set[str]:
    return {output.digest for output in record.outputs.values()}


def _plan_key(version: VersionInfo) -> str:
    _, _, key = version.tags.get("perennial.plan", "").rpartition("/runs/")
    return f"runs/{key}" if key else ""


def _again(version: VersionInfo, records: dict[str, StepRecord], role: str) -> str:
    plan = version.tags.get("perennial.plan", "URI")
    step = _maker(records, version.tags.get(f"perennial.{role}", "")) or f"<release.{role}>"
    return f"the step that made it makes it again: `perennial step --plan {plan} --step {step}`"


def _maker(records: dict[str, StepRecord], digest: str) -> str:
    """The step that made an artefact, "" where no record says so."""
    return next((step for step, record in records.items() if digest in _made(record)), "")


def _judged(part: Part, name: str, where: str, found: list[str], remedy: str) -> Place:
    return Place(part, name, where, "; ".join(found[:5]), remedy if found else "")
