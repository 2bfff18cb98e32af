"""The release commands: register, promote, reject, roll back, sign, registry, summary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from tasks.artefacts import Store, open_store, problems
from tasks.recipe.failures import ConfigInvalid, DataInvalid, GatesFailed
from tasks.recipe.models import NOBODY
from tasks.recipe.plan import Plan
from tasks.release import promote as decisions
from tasks.release import signature
from tasks.release.approvals import actors, required
from tasks.release.checks import PROMOTION, ROLLBACK
from tasks.release.keys import key_id, public_text, signing_key
from tasks.release.overtaken import between
from tasks.release.register import ReleaseRecord, register
from tasks.runner import handover
from tasks.runner.links import as_markdown, mlflow_links
from tasks.runner.logbook import open_parent
from tasks.runner.planner import run_of
from tasks.runner.process import read_plan
from tasks.runner.settings import Settings
from tasks.tracking import registry, runs
from tasks.tracking.registry import VersionInfo


def register_run(plan: Plan, uri: str, store: Store, settings: Settings) -> ReleaseRecord:
    """Judge a run's evidence and register its candidate; ends the run's MLflow run.

    Raises:
        ConfigInvalid: The recipe releases nothing.
        GatesFailed: A stop gate failed.
    """
    if plan.release is None:
        raise ConfigInvalid(f"recipe '{plan.recipe}' has no release: there is nothing to register")
    records = {name: record.model_dump() for name, record in run_of(plan, store).items()}
    parent = open_parent(plan, uri)
    try:
        record = register(
            store,
            plan.model_dump(mode="json"),
            records,
            plan_uri=uri,
            parent=parent,
            cache=settings.home / "cache" / "artefacts",
        )
    except GatesFailed:
        runs.end(parent, "FAILED")
        raise
    runs.end(parent, "FINISHED")
    if told := handover.registered(settings, store, plan, record):
        print(told)
    return record


@dataclass(frozen=True)
class Told:
    """A decision.

    Attributes:
        words: What was decided, and what holds now.
        missing: How many other people must approve before the version goes to production.
    """

    words: str
    missing: int = 0


def decide(
    action: Literal["promote", "reject"],
    settings: Settings,
    *,
    plan: str | None,
    model: str | None,
    version: str | None,
    by: list[str],
    reason: str,
    over: str = "",
    smoke_elsewhere: bool = False,
) -> Told:
    """Promote or reject the candidate of a plan, or a version of a model; what was decided."""
    store, name, number, run = _target(settings, plan, model, version)
    actor = actors(by)
    if action == "reject":
        rejected = decisions.reject(store, name, number, actor, reason, run=run)
        late = actor == NOBODY and rejected.line.actor != NOBODY
        note = "nobody answered in time, and the version was decided on meanwhile; that stays:\n"
        return Told((note if late else "") + _told(name, rejected))

    def smoke(store: Store, wanted: VersionInfo) -> None:
        handover.before(settings, store, name, wanted.version, elsewhere=smoke_elsewhere)

    # A check of the decision, so that what is tested is what is promoted, wherever an alias moves meanwhile.
    checks = (smoke, *PROMOTION)
    decision = decisions.promote(store, name, number, actor, reason, run=run, over=over, checks=checks)
    told = handover.after(settings, store, name, decision.line.to_version, elsewhere=smoke_elsewhere)
    return Told("\n".join(filter(None, (_told(name, decision), told))), decision.missing)


def roll_back(
    settings: Settings,
    model: str,
    by: str,
    reason: str,
    run: str,
    from_version: str = "",
    to_version: str = "",
) -> str:
    """Put the previous champion back; what was done, in words.

    With the versions that were shown to who decided, it is refused where they are no longer those.
    """
    store = open_store(settings.store)

    def smoke(store: Store, back: VersionInfo) -> None:
        handover.before(settings, store, model, back.version, back=True)

    decision = decisions.rollback(
        store,
        model,
        by,
        reason,
        run=run,
        from_version=from_version,
        to_version=to_version,
        checks=(smoke, *ROLLBACK),
    )
    told = handover.after(settings, store, model, decision.line.to_version)
    return "\n".join(filter(None, (_told(model, decision), told)))


def smoke_test(
    settings: Settings, plan: str | None, model: str | None, version: str | None, **more: Any
) -> tuple[bool, str]:
    """Run the smoke test of a run's candidate, or of a version of a model; more is `smoke_version`'s.

    Returns:
        Whether it passed, and what came out, in words.
    """
    if plan is not None and model is not None:
        raise ConfigInvalid("name the run's --plan, or a model and a version, not both")
    _, name, number, _ = _target(settings, plan, model, version, "MODEL VERSION")
    return handover.smoke_version(settings, name, number, **more)


def _told(model: str, decision: decisions.Decision) -> str:
    """A decision in words: what an earlier call had left undone, what was decided, and what holds now."""
    line = decision.line
    done = {
        "promote": f"version {line.to_version} of '{model}' promoted",
        "approve": f"version {line.to_version} of '{model}' approved",
        "reject": f"version {line.to_version} of '{model}' rejected",
        "delete": f"version {line.to_version} of '{model}' deleted",
        "rollback": f"'{model}' rolled back from version {line.from_version} to {line.to_version}",
    }[line.action]
    again = f" (already on record since {line.time})" if decision.repeated else ""
    words = [f"an earlier call was cut short; completed: {each}" for each in decision.repairs]
    words.append(f"{done} by {line.actor}: {line.reason}{again}")
    if decision.missing:
        people = "another person" if decision.missing == 1 else f"{decision.missing} other people"
        words.append(f"it goes to production once {people} approved it too")
    words.append(f"champion: {decision.champion or 'none'}, previous: {decision.previous or 'none'}")
    return "\n".join(words)


def sign_version(settings: Settings, model: str, version: str, by: str) -> str:
    """Sign a version that has no trusted signature, on a person's word; what was done, in words.

    Raises:
        ConfigInvalid: There is no such version, or no key to sign with.
        DataInvalid: Its model is missing or altered, or the record of its run says something else.
    """
    store = open_store(settings.store)
    found = registry.version(model, version)
    damage = problems(store, found.digest) if found.digest else []
    if damage:
        raise DataInvalid(
            f"version {found.version} of '{model}': its model is damaged: {'; '.join(damage[:5])}"
        )
    run = found.tags.get("perennial.run", "")
    key = f"runs/{run}/release.json"
    told = "its run is no longer in the store: nothing could be compared with it"
    if run and store.stat(key) is not None:
        record = ReleaseRecord.model_validate_json(store.read(key))
        said = (record.model, record.candidate, record.report)
        held = (model, found.digest, found.tags.get("perennial.report"))
        if said != held:
            raise DataInvalid(
                f"version {found.version} of '{model}' is not what {store.locate(key)} says that the run "
                f"registered: {said} there, {held} in MLflow; somebody changed one of the two"
            )
        told = f"model and report are those that run '{run}' registered"
    signed = signature.sign(store, found, by)
    return f"version {found.version} of '{model}' signed by {by} with the key {signed.key}; {told}"


def own_key(settings: Settings) -> str:
    """The installation's key: its id, and its public half as PERENNIAL_TRUSTED_KEYS holds it."""
    public = signing_key(settings.store).public_key()
    return f"{key_id(public)}\n{public_text(public)}".rstrip()


def summary_of(
    settings: Settings, plan: str | None, model: str | None, version: str | None
) -> dict[str, Any]:
    """What the approval shows: `markdown`, and for machines model, version, run, `approvals` and `smoke`.

    `smoke` is whether the version has a smoke test.
    """
    asked: VersionInfo | None = None
    if plan is not None:
        frozen, store = read_plan(plan)
        run = frozen.run
    else:
        store, name, number, _ = _target(settings, None, model, version)
        asked = registry.version(name, number)
        run = asked.tags.get("perennial.run", "")
    key = f"runs/{run}/summary.md"
    if not run or store.stat(key) is None:
        raise ConfigInvalid(f"there is no summary of run '{run}' in {store.uri}: it has registered nothing")
    if store.stat(f"runs/{run}/release.json") is None:  # no change: nothing waits for a decision
        champion = json.loads(store.read(f"runs/{run}/unchanged.json"))
        return {
            "model": champion["model"],
            "version": champion["champion"],
            "semantic_version": champion["semantic"],
            "run": run,
            "approvals": 1,
            "smoke": False,
            "markdown": store.read(key).decode(),
        }
    record = ReleaseRecord.model_validate_json(store.read(f"runs/{run}/release.json"))
    found = registry.find_version(record.model, record.version) if record.version else None
    came = between(store, asked) if asked else ""
    note = f"> **Judged against another champion**: {came}. Promoting it needs `--over`.\n\n" if came else ""
    links = as_markdown(mlflow_links(settings, record))
    return {
        "model": record.model,
        "version": asked.version if asked else record.version,
        "semantic_version": record.semantic_version,
        "run": run,
        "approvals": required(found.tags) if found else 1,
        "smoke": found is not None and handover.smokes(store, found),
        "markdown": note + store.read(key).decode() + (f"\n{links}\n" if links else ""),
    }


def print_registry(settings: Settings, model: str) -> None:
    """Print the versions of a model, newest first, with their aliases."""
    versions = registry.versions(model)
    if not versions:
        raise ConfigInvalid(f"MLflow has no registered model '{model}' at {settings.tracking}")
    held: dict[str, list[str]] = {}
    for alias, number in registry.aliases(model).items():
        held.setdefault(number, []).append(alias)
    table = Table(box=None, pad_edge=False)
    for column in ("version", "semantic", "aliases", "digest", "run"):
        table.add_column(column, overflow="fold")
    for each in reversed(versions):
        table.add_row(
            each.version,
            each.semantic,
            ", ".join(sorted(held.get(each.version, []))),
            each.digest[:12],
            each.tags.get("perennial.run", ""),
        )
    Console(soft_wrap=True).print(table, highlight=False, markup=False)


def _target(
    settings: Settings,
    plan: str | None,
    model: str | None,
    version: str | None,
    called: str = "--model NAME and --version NUMBER-OR-ALIAS",
) -> tuple[Store, str, str, str]:
    """The store, model, version and run that `--plan`, or a model and a version, name.

    `called` is how the command takes the two.
    """
    if plan is not None:
        frozen, store = read_plan(plan)
        key = f"runs/{frozen.run}/release.json"
        if store.stat(key) is None:
            raise ConfigInvalid(
                f"run '{frozen.run}' has registered nothing yet: run `perennial register` first"
            )
        record = ReleaseRecord.model_validate_json(store.read(key))
        if record.version is None:
            raise ConfigInvalid(
                f"run '{frozen.run}' was refused by its gates; there is no version to decide on"
            )
        return store, frozen.model, record.version, frozen.run
    if not model or not version:
        raise ConfigInvalid(f"name the candidate: --plan URI, or {called}")
    return open_store(settings.store), model, version, ""
