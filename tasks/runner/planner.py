"""From a recipe to a frozen plan: data pinned, references bound; and what the plan would do."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.artefacts import Store, commit, load_manifest, open_store
from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tasks.recipe.corpora import SCHEME
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import Recipe
from tasks.recipe.plan import Pinned, Plan, PlannedStep, resolve
from tasks.recipe.references import parse_reference
from tasks.recipe.run_names import plan_uri
from tasks.release import signature
from tasks.release.card import says_the_same
from tasks.release.keys import trusted_keys
from tasks.release.prices import price_table
from tasks.release.whole import model_digest
from tasks.runner import logbook, unchanged
from tasks.runner.budget import check_priced
from tasks.runner.code import code_of
from tasks.runner.corpora import materialise_corpus
from tasks.runner.imports import import_model
from tasks.runner.records import StepRecord, run_key
from tasks.runner.settings import Settings
from tasks.runner.step import Attempt, find_step, link, load_method, look
from tasks.sources import materialise
from tasks.stage import Estimate
from tasks.tracking import registry, runs
from tasks.tracking.registry import VersionInfo


def freeze(
    recipe_path: str | Path,
    settings: Settings,
    *,
    run: str,
    overrides: Sequence[str] = (),
    refresh: Sequence[str] = (),
) -> Plan:
    """Check a recipe, pin all that it refers to, and give the plan of one run.

    Where the champion came from this very recipe, data and code, the plan is bound to what the champion was
    compared with then, so that a run on unchanged input is a hit from end to end instead of a comparison of
    the champion with itself.

    Args:
        recipe_path: The YAML file.
        settings: Where the store and MLflow are.
        run: The id of the run.
        overrides: `key=value` changes to the recipe.
        refresh: Steps to run although nothing changed.

    Raises:
        ConfigInvalid: The recipe has problems (the message lists all of them), or the champion is not signed
            by a trusted key.
        DataInvalid: A data source cannot be read, or the champion is not what was signed.
    """
    catalogue = Catalogue.load()
    checked = check(recipe_path, catalogue, overrides)
    if checked.recipe is None or checked.problems:
        raise ConfigInvalid(format_problems(checked.problems))
    recipe = checked.recipe
    unknown = [name for name in refresh if name not in recipe.steps]
    if unknown:
        raise ConfigInvalid(
            f"cannot run again (refresh) '{unknown[0]}': the recipe's steps are {', '.join(recipe.steps)}"
        )
    store = open_store(settings.store)
    if recipe.release is not None:
        trusted_keys(store.uri)  # where they are not set up, that is said now, not after days of training
    data = pin_data(recipe, store, settings)
    champion = registry.find_version(recipe.model, "champion", settings.tracking)
    uris = {uri: import_model(uri, store, settings) for uri in _references(recipe, "uri")}
    code = {
        name: code_of(step.stage, step.method or catalogue.default_method(step.stage))
        for name, step in recipe.steps.items()
    }

    currency, rates = price_table(recipe.release.prices if recipe.release else None)

    def bound(bindings: Mapping[str, Pinned | None]) -> Plan:
        return resolve(
            recipe,
            catalogue,
            data=data,
            champion=bindings,
            uris=uris,
            code=code,
            run=run,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            overrides=list(overrides),
            refresh=list(refresh),
            rates=rates,
            currency=currency,
        )

    names = _references(recipe, "champion")
    if champion and names:
        signature.verify(store, champion)
    plan = bound({name: _champion_pin(name, champion, store) for name in names})
    check_priced(plan.budget, plan.steps, plan.rates, plan.release.gates if plan.release else ())
    if champion and champion.tags.get("perennial.intent") == plan.intent and not refresh:
        signature.verify(store, champion)
        before = _plan_of(champion, store)
        if before is not None:
            return bound(before.bindings)
    return plan


def write_plan(plan: Plan, store: Store) -> str:
    """Write the plan where every step reads it and return its URI."""
    store.write(f"runs/{plan.run}/plan.json", plan.to_bytes())
    return plan_uri(store.uri, plan.run)


def pin_data(recipe: Recipe, store: Store, settings: Settings) -> dict[str, Pinned]:
    """Read every data source of the recipe into the store; equal content has the digest it had before."""
    pins: dict[str, Pinned] = {}
    (settings.home / "work").mkdir(parents=True, exist_ok=True)
    for name, source in recipe.data.items():
        directory = Path(tempfile.mkdtemp(prefix=f"data-{name}-", dir=settings.home / "work"))
        try:
            how: dict[str, Any] = {
                "kind": source.kind,
                "split": source.split,
                "options": source.options,
                "directory": directory,
            }
            if source.uri.startswith(SCHEME):
                cache = settings.home / "cache" / "artefacts"
                made = materialise_corpus(source.uri, **how, store=store, cache=cache)
            else:
                made = materialise(source.uri, **how)
            manifest = commit(
                store, directory, kind=made.kind, parents=[], producer=source.uri, meta=dict(made.meta)
            )
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        pins[name] = Pinned(digest=manifest.digest, kind=made.kind, meta=dict(made.meta))
    return pins


@dataclass(frozen=True)
class Preview:
    """What would become of one step.

    Attributes:
        cached: Nothing would run.
        reasons: Why it is cached, or why not.
        estimate: What a step that runs will need, where its method can tell.
    """

    step: PlannedStep
    cached: bool
    reasons: list[str]
    estimate: Estimate | None = None
    record: StepRecord | None = field(default=None, repr=False)


def preview(plan: Plan, store: Store, *, estimates: bool = True) -> list[Preview]:
    """Walk the plan in order: what is cached, why the rest is not, and what it needs.

    A step behind one that runs is not looked up, since its inputs are not known yet; it may still turn out
    cached when the step before gives what it gave last time.
    """
    found: list[Preview] = []
    outputs: dict[str, dict[str, Any]] = {}
    known: dict[str, StepRecord] = {}
    for step in plan.steps:
        pending = sorted(
            {
                str(given.step)
                for refs in step.inputs.values()
                for given in refs
                if given.step and given.step not in known
            }
        )
        if pending:
            seen = Preview(step, False, [f"waits for {', '.join(pending)}"])
        else:
            lookup, _, step = look(plan, step, store, known=known)
            seen = Preview(step, lookup.record is not None, lookup.reasons, record=lookup.record)
            if lookup.record is not None:
                known[step.name] = lookup.record
        if seen.record is not None:
            outputs[step.name] = {name: output.meta for name, output in seen.record.outputs.items()}
        elif estimates:
            estimate = _estimate(step, plan, outputs, store)
            outputs[step.name] = dict(estimate.meta) if estimate else {}
            seen = Preview(step, False, seen.reasons, estimate)
        found.append(seen)
    return found


def link_all(plan: Plan, store: Store, settings: Settings) -> bool:
    """Where nothing at all would run and the champion is this plan's candidate, link every step at once.

    Returns:
        True where the run is over: "no change". `runs/<run>/unchanged.json` and `summary.md` then say so and
        why to every reader.
    """
    champion = registry.find_version(plan.model, "champion", settings.tracking)
    seen = preview(plan, store, estimates=False)
    records = {each.step.name: each.record for each in seen if each.record is not None}
    if len(records) < len(seen) or champion is None or plan.release is None:
        return False
    name, _, output = plan.release.candidate.partition(".")
    main = output or next(iter(find_step(plan, name).outputs))
    if champion.digest != records[name].outputs[main].digest:
        return False
    if not says_the_same(champion.tags, plan.effective):
        return False  # the same model with another card: another version
    attempt = Attempt(settings=settings, store=store)
    for step in plan.steps:
        lookup, _, _ = look(plan, step, store, known=records)
        link(plan, step, lookup, attempt)
    runs.end(logbook.open_parent(plan, plan_uri(store.uri, plan.run)), "FINISHED")
    unchanged.write(plan, store, unchanged.evidence(plan, store, champion, records))
    return True


def _references(recipe: Recipe, kind: str) -> list[str]:
    """The distinct references of one kind in the recipe, in order."""
    found: dict[str, None] = {}
    for step in recipe.steps.values():
        for given in step.inputs.values():
            for text in [given] if isinstance(given, str) else given:
                for reference in parse_reference(text):
                    if reference.kind == kind:
                        found.setdefault(str(reference))
    return list(found)


def _champion_pin(name: str, champion: VersionInfo | None, store: Store) -> Pinned | None:
    """What `champion`, `champion.<step>` or `champion.<step>.<output>` stands for now, if there is one."""
    if champion is None:
        return None
    _, _, step = name.partition(".")
    digest = champion.tags.get(f"perennial.step.{step}") if step else champion.digest
    if digest is None:  # the champion's plan had no such step: the reference's next alternative is taken
        return None
    manifest = load_manifest(store, digest)
    if manifest.kind == "adapter" and not step:
        digest = model_digest(champion)
        manifest = load_manifest(store, digest)
    return Pinned(digest=digest, kind=manifest.kind, meta=dict(manifest.meta))


def _plan_of(champion: VersionInfo, store: Store) -> Plan | None:
    """The plan that made a version, where its run is still in this store."""
    _, _, key = champion.tags.get("perennial.plan", "").rpartition("/runs/")
    if not key or store.stat(f"runs/{key}") is None:
        return None
    return Plan.from_bytes(store.read(f"runs/{key}"))


def _estimate(
    step: PlannedStep, plan: Plan, outputs: Mapping[str, Mapping[str, Any]], store: Store
) -> Estimate | None:
    method = load_method(step.stage, step.method)
    metas: dict[str, list[Mapping[str, Any]]] = {}
    for port, refs in step.inputs.items():
        metas[port] = []
        for given in refs:
            if given.digest is not None:
                metas[port].append(load_manifest(store, given.digest).meta)
            else:
                metas[port].append(outputs.get(str(given.step), {}).get(str(given.output), {}))
    if method.hands_on:
        # What is handed on keeps the facts it came with.
        handed = {
            given.ref.rsplit(".", 1)[-1]: meta
            for port, refs in step.inputs.items()
            for given, meta in zip(refs, metas[port], strict=True)
        }
        return Estimate(meta=handed)
    return method.estimate(method.options.model_validate(step.options), metas) if method.estimate else None


def run_of(plan: Plan, store: Store) -> dict[str, StepRecord]:
    """The records of a run, by step, as far as it has come."""
    found: dict[str, StepRecord] = {}
    for step in plan.steps:
        key = run_key(plan.run, step.name)
        if store.stat(key) is not None:
            found[step.name] = StepRecord.model_validate_json(store.read(key))
    return found
