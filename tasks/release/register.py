"""Judges a run's evidence and, if the gates allow it, registers its candidate in MLflow by reference."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.artefacts import Store, fetch, problems
from tasks.recipe.failures import DataInvalid, Infrastructure
from tasks.recipe.fingerprints import canonical
from tasks.release import signature
from tasks.release.aliases import decided_against, reconcile
from tasks.release.card import says_the_same
from tasks.release.cards import TAG, read_card, write_card
from tasks.release.costs import known_figures
from tasks.release.gates import failure, judge, stopped
from tasks.release.records import PlanFacts, Report, StepRecord, read_report
from tasks.release.summary import summary
from tasks.release.tags import Origin, tags_of
from tasks.release.verdict import verdicts, with_verdict
from tasks.release.versions import LineageFacts, lineage, next_version
from tasks.tracking import ledger, registry, runs
from tasks.tracking.registry import VersionInfo
from tasks.tracking.sources import source_of

RESTRICTED = "restricted.html"
"""The page of the report that shows items with their texts."""


class ReleaseRecord(BaseModel):
    """What became of a run's candidate; `runs/<run>/release.json`.

    Attributes:
        outcome: `registered`: it waits as `candidate`; `no_change`: it is the champion already, or a person
            took it back before; `refused`: a stop gate failed.
        version: MLflow's number: the new version, or with no_change the one it is already; None if refused.
        semantic_version: Its semantic version.
        champion: The version in production when the evidence was judged.
        summary: Markdown for the approval.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: Literal["registered", "no_change", "refused"]
    run: str
    model: str
    version: str | None
    semantic_version: str | None
    version_reason: str
    candidate: str
    report: str
    champion: str | None
    approval: Literal["human", "none"]
    gates: list[dict[str, Any]] = Field(default_factory=list)
    summary: str


def register(
    store: Store,
    plan: PlanFacts | Mapping[str, Any],
    records: Mapping[str, StepRecord | Mapping[str, Any]],
    *,
    plan_uri: str,
    parent: str,
    cache: Path,
    actor: str = "perennial",
) -> ReleaseRecord:
    """Judge, register, set the alias `candidate`, and write down all of it; safe to repeat.

    Writes `runs/<run>/release.json`, `gates.json`, `summary.md`, `report.json` and `report.html` to the
    store, and the same with the model card to the parent MLflow run.

    Args:
        store: Holds the run.
        plan: The frozen plan, whole, as the store has it: the signature covers it.
        records: The run's step records by step, in the plan's order.
        plan_uri: Where the plan is.
        parent: The MLflow parent run's id.
        cache: For artefacts fetched from a remote store.
        actor: Who the ledger says registered it.

    Raises:
        GatesFailed: A stop gate failed; release.json is written and nothing registered.
        ConfigInvalid: A gate cannot be judged on this report, or there is no key to sign the version with.
        DataInvalid: The report or the candidate is unreadable, missing or altered.
        Infrastructure: The store or MLflow is unreachable, or a step has not run.
    """
    facts = PlanFacts.model_validate(plan)
    steps = {name: StepRecord.model_validate(record) for name, record in records.items()}
    _check_steps(facts, steps)
    candidate = lineage(steps, facts.release.candidate)
    evidence = steps[_step(facts.release.report)].output(facts.release.report, "report").digest
    _check_candidate(store, candidate.model)
    pages = fetch(store, evidence, cache)
    report = read_report(pages / "report.json")
    known = known_figures(facts, steps)
    results = judge(facts.release.gates, report, correction=facts.release.correction, known=known)
    origin = Origin(facts, plan_uri, steps, candidate, evidence, results)
    reconcile(store, facts.model)
    champion = registry.find_version(facts.model, "champion")

    source = source_of(store, candidate.model)
    shown = ""
    if champion is not None and _unchanged(champion, candidate, evidence, facts):
        outcome: Literal["registered", "no_change", "refused"] = "no_change"
        version, semantic, change = champion.version, champion.semantic, "nothing changed"
        headline = f"{facts.model}: no change: version {version} ({semantic}) stays in production"
    elif (taken := _taken_back(store, facts, candidate.model, evidence)) is not None:
        outcome = "no_change"
        before, decision = taken
        version, semantic, change = before.version, before.semantic, "nothing changed"
        headline = (
            f"{facts.model}: no change: version {version} ({semantic}) is this very model, and {decision}; "
            f"to have it after all: `perennial promote --model {facts.model} --version {version}`"
        )
    elif stopped(results):
        outcome = "refused"
        version, semantic, change = None, None, ""
        headline = f"{facts.model}: refused: {len(stopped(results))} of {len(results)} gates stop it"
    else:
        outcome = "registered"
        made, tags, shown = _register(store, origin, report, source, champion, parent)
        whole = plan.model_dump(mode="json") if isinstance(plan, PlanFacts) else plan
        digest = hashlib.sha256(canonical(whole)).hexdigest()
        signature.sign_registered(store, made, tags, plan=digest, by=actor)
        version, semantic = made.version, made.semantic
        change = made.tags.get("perennial.version_reason", tags["perennial.version_reason"])
        headline = f"{facts.model} {semantic} (version {version}) waits for a decision"
        _enter(store, facts, made, evidence, actor)

    notes = _notes(facts, candidate, evidence, champion, change)
    text = summary(headline, report, results, steps.values(), notes)
    record = ReleaseRecord(
        outcome=outcome,
        run=facts.run,
        model=facts.model,
        version=version,
        semantic_version=semantic,
        version_reason=change,
        candidate=candidate.model,
        report=evidence,
        champion=champion.version if champion else None,
        approval=facts.release.approval,
        gates=[asdict(result) for result in results],
        summary=text,
    )
    documents = {
        "release.json": json.dumps(record.model_dump(), sort_keys=True, indent=1).encode(),
        "summary.md": text.encode(),
        "report.html": with_verdict(pages / "report.html", outcome, headline, results, facts, steps),
        "report.json": (pages / "report.json").read_bytes(),
        "gates.json": verdicts(outcome, facts, results, steps),
    }
    for name, data in documents.items():
        store.write(f"runs/{facts.run}/{name}", data)
    if (pages / RESTRICTED).is_file():  # texts of items: for those who may read the store, not for MLflow
        store.write(f"runs/{facts.run}/{RESTRICTED}", (pages / RESTRICTED).read_bytes())
    if shown:
        documents["model-card.md"] = shown.encode()
        store.write(f"runs/{facts.run}/model-card.md", shown.encode())  # what is handed over takes it along
    _log(parent, documents)
    if outcome == "refused":
        raise failure(facts.model, results)
    return record


def _check_steps(plan: PlanFacts, steps: Mapping[str, StepRecord]) -> None:
    for reference in (plan.release.candidate, plan.release.report):
        if _step(reference) not in steps:
            raise Infrastructure(
                f"run '{plan.run}': step '{_step(reference)}' has no record, so there is nothing to release; "
                f"run the step first"
            )


def _check_candidate(store: Store, digest: str) -> None:
    damage = problems(store, digest)
    if damage:
        raise DataInvalid(
            f"the candidate {digest} in {store.uri} is damaged: {'; '.join(damage[:5])}. Start the run "
            f"again: the step that made it repairs it"
        )


def _unchanged(champion: VersionInfo, candidate: LineageFacts, evidence: str, plan: PlanFacts) -> bool:
    """The champion is this very model and card, on the same evidence or by a plan of the same intent."""
    same = champion.tags.get("perennial.report") == evidence or (
        champion.tags.get("perennial.intent") == plan.intent
    )
    return champion.digest == candidate.model and says_the_same(champion.tags, plan.effective) and same


def _taken_back(
    store: Store, plan: PlanFacts, candidate: str, evidence: str
) -> tuple[VersionInfo, str] | None:
    """The version that is this model, where a person rejected it or rolled it back; and that, in words.

    A person is asked again once there is new evidence. Where the gates alone promote, what a person took back
    stays back, or the next scheduled run would undo the decision.
    """
    lines = ledger.history(store, plan.model)
    for version in reversed(registry.versions(plan.model)):
        same_evidence = version.tags.get("perennial.report") == evidence and says_the_same(
            version.tags, plan.effective
        )
        if version.digest == candidate and (same_evidence or plan.release.approval == "none"):
            line = decided_against(lines, version.version)
            if line is not None:
                done = "rejected" if line.action == "reject" else "rolled back"
                return version, f"{line.actor} {done} it on {line.time[:10]}: {line.reason}"
    return None


def _register(
    store: Store, origin: Origin, report: Report, source: str, champion: VersionInfo | None, parent: str
) -> tuple[VersionInfo, dict[str, str], str]:
    """The version, new or known, the tags that it was to have, and the card written for it.

    Two runs may derive one number at the same time. Both versions are then there, and the younger takes the
    next number before it is signed: whoever looks second sees the other.
    """
    plan, given = origin.plan, tags_of(origin)
    numbers: set[str] = set()
    while True:
        taken = {
            each.semantic for each in registry.versions(plan.model) if not registry.is_same(each, given)
        } | numbers
        semantic, change = next_version(_champion_facts(champion), origin.candidate, taken)
        card, text = write_card(
            store,
            plan,
            origin.records,
            report,
            list(origin.gates),
            semantic=semantic,
            change=change,
            source=source,
        )
        derived = {
            "perennial.semantic_version": semantic,
            "perennial.version_reason": change,
            TAG: card,
        }
        words = f"{plan.model} {semantic}: {change}. Its card is release/model-card.md of the run."
        if not numbers:
            made = registry.register(plan.model, source, parent, given | derived, description=words)
        else:
            registry.tag_version(plan.model, made.version, derived)
            registry.describe_version(plan.model, made.version, words)
            made = registry.version(plan.model, made.version)
        older = {
            each.semantic for each in registry.versions(plan.model) if int(each.version) < int(made.version)
        }
        if made.semantic not in older or made.tags.get("perennial.signature"):
            # What was there before has its own card, perhaps of another number.
            known = made.tags.get(TAG, card) != card
            return made, given | derived, read_card(store, made) if known else text
        numbers.add(made.semantic)


def _champion_facts(champion: VersionInfo | None) -> LineageFacts | None:
    if champion is None or "perennial.lineage" not in champion.tags:
        return None  # registered by other means: nothing to derive a number from, so ours start at 1.0.0
    try:
        return LineageFacts.model_validate(
            {**json.loads(champion.tags["perennial.lineage"]), "semantic": champion.semantic}
        )
    except ValueError as error:
        raise DataInvalid(
            f"the champion, version {champion.version} of '{champion.name}', has an unreadable tag "
            f"perennial.lineage, from which the next version number is derived: set it from its "
            f"runs/<run>/steps, or promote a version that Perennial registered ({error})"
        ) from error


def _enter(store: Store, plan: PlanFacts, made: VersionInfo, evidence: str, actor: str) -> None:
    """Put the registration into the ledger; the alias `candidate` follows the ledger.

    A retry finds its line there; a version whose question ran out of time gets another, and is asked again.
    """

    def make(lines: Sequence[ledger.Line]) -> ledger.Draft | None:
        about = [line.action for line in lines if line.to_version == made.version]
        if about and about[-1] == "register":
            return None
        return ledger.Draft(
            action="register",
            actor=actor,
            from_version=ledger.standing(lines).champion,
            to_version=made.version,
            to_digest=made.digest,
            evidence=evidence,
            reason=made.tags.get("perennial.version_reason", ""),
            run=plan.run,
        )

    ledger.append(store, plan.model, make)
    reconcile(store, plan.model)


def _notes(
    plan: PlanFacts, candidate: LineageFacts, evidence: str, champion: VersionInfo | None, change: str
) -> list[str]:
    held = f"version {champion.version} ({champion.semantic})" if champion else "none yet"
    return [
        f"recipe {plan.recipe}, run `{plan.run}`",
        f"candidate `{candidate.model}`{f': {change}' if change else ''}",
        f"evidence `{evidence}`",
        f"in production: {held}",
    ]


def _log(parent: str, documents: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in documents.items():
            path = Path(folder) / name
            path.write_bytes(data)
            runs.log_file(parent, path, "release")


def _step(reference: str) -> str:
    return reference.partition(".")[0]
