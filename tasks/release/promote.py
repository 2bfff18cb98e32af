"""Promotion, rejection and rollback: a ledger line first, then the aliases, which follow the ledger.

A process that dies between the two leaves a line without its aliases; the next call, or `reconcile`, moves
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.artefacts import Store, problems
from tasks.recipe.failures import ConfigInvalid, DataInvalid, GatesFailed
from tasks.recipe.models import NOBODY
from tasks.release import signature
from tasks.release.overtaken import judged_against, overtaken
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo


@dataclass(frozen=True)
class Decision:
    """What a decision left behind.

    Attributes:
        line: The ledger's line.
        repeated: The line was there already: a retry.
        champion: The version in production now; None if there is none.
        previous: The version that a rollback would bring back.
        repairs: Aliases that had to follow the ledger, in words.
    """

    line: ledger.Line
    repeated: bool
    champion: str | None
    previous: str | None
    repairs: list[str] = field(default_factory=list)


def promote(
    store: Store,
    model: str,
    version: str,
    actor: str,
    reason: str,
    evidence: str = "",
    run: str = "",
    over: str = "",
) -> Decision:
    """Make a version the champion and the old champion the previous one.

    Repeating the same decision (same version, actor, reason) changes nothing, so that a retry is safe.

    Args:
        store: Holds the model and the ledger.
        model: The registered model.
        version: MLflow's number, or the alias `candidate`.
        actor: Who decided.
        reason: Why, in words.
        evidence: Digest of the report; "" for the one that the version was registered with.
        run: The Perennial run that asks, or "".
        over: The version in production that the caller knows it takes the place of, or "". Needed where the
            candidate was judged against another champion than the one of now.

    Raises:
        ConfigInvalid: No such version, no actor or reason, it is the champion already, or it is not signed
            by a trusted key.
        GatesFailed: It was judged against another champion than the one in production now.
        DataInvalid: The model's artefact is missing or altered, the version is not what was signed, or the
            ledger was tampered with.
        Infrastructure: The store or MLflow is unreachable.
    """
    _require(actor, reason)
    wanted = _asked_for(store, model, version, "promote", actor, reason)
    _check_artefact(store, wanted)
    adopted = registry.aliases(model).get("champion")
    judged = judged_against(store, wanted)

    def make(lines: Sequence[ledger.Line]) -> ledger.Draft | None:
        held = _champion(lines, adopted)
        if held == wanted.version:
            last = _last_move(lines)
            if last is not None and _same(last, "promote", wanted.version, actor, reason):
                return None
            since = f" since {last.time} (by {last.actor}: {last.reason})" if last else ""
            raise ConfigInvalid(f"version {wanted.version} of '{model}' is the champion already{since}")
        between = overtaken(judged, held, _champion_digest(model, lines, adopted), lines)
        if between and over != held:
            raise GatesFailed(
                f"version {wanted.version} of '{model}': {between}. Its evidence says nothing of version "
                f"{held}: run its recipe again, which judges against that; or, to replace it all the same: "
                f"--over {held}"
            )
        return ledger.Draft(
            action="promote",
            actor=actor,
            from_version=held,
            to_version=wanted.version,
            from_digest=_champion_digest(model, lines, adopted),
            to_digest=wanted.digest,
            evidence=evidence or wanted.tags.get("perennial.report", ""),
            reason=reason,
            run=run,
        )

    return _decide(store, model, make)


def reject(
    store: Store, model: str, version: str, actor: str, reason: str, evidence: str = "", run: str = ""
) -> Decision:
    """Record that a version does not become the champion, and take the alias `candidate` from it.

    Raises:
        ConfigInvalid: No such version, no actor or reason, or it is in production.
        DataInvalid: The ledger was tampered with.
        Infrastructure: The store or MLflow is unreachable.
    """
    _require(actor, reason)
    wanted = _asked_for(store, model, version, "reject", actor, reason)
    adopted = registry.aliases(model).get("champion")

    def make(lines: Sequence[ledger.Line]) -> ledger.Draft | None:
        held = _champion(lines, adopted)
        if held == wanted.version:
            raise ConfigInvalid(
                f"version {wanted.version} of '{model}' is in production; take it back with "
                f"`perennial rollback {model}`"
            )
        if lines and _same(lines[-1], "reject", wanted.version, actor, reason):
            return None
        return ledger.Draft(
            action="reject",
            actor=actor,
            from_version=held,
            to_version=wanted.version,
            to_digest=wanted.digest,
            evidence=evidence or wanted.tags.get("perennial.report", ""),
            reason=reason,
            run=run,
        )

    return _decide(store, model, make)


def rollback(store: Store, model: str, actor: str, reason: str, run: str = "") -> Decision:
    """Make the previous version the champion again; the one taken back becomes the previous one.

    With a `run`, repeating the same decision changes nothing; by hand, a second rollback undoes the first.

    Raises:
        ConfigInvalid: There is no previous version, or it is not signed by a trusted key.
        DataInvalid: Its artefact is missing or altered, it is not what was signed, or the ledger was tampered
            with.
        Infrastructure: The store or MLflow is unreachable.
    """
    _require(actor, reason)

    def make(lines: Sequence[ledger.Line]) -> ledger.Draft | None:
        last = _last_move(lines)
        if run and last is not None and last.action == "rollback" and last.run == run:
            return None
        now = ledger.standing(lines)
        if now.champion is None or now.previous is None:
            raise ConfigInvalid(
                f"model '{model}' has no previous version to go back to "
                f"(champion: {now.champion or 'none'}); promote another version instead"
            )
        back = registry.version(model, now.previous)
        _check_artefact(store, back)
        return ledger.Draft(
            action="rollback",
            actor=actor,
            from_version=now.champion,
            to_version=now.previous,
            from_digest=_champion_digest(model, lines, None),
            to_digest=back.digest,
            evidence=back.tags.get("perennial.report", ""),
            reason=reason,
            run=run,
        )

    return _decide(store, model, make)


def reconcile(store: Store, model: str) -> list[str]:
    """Move the aliases to where the ledger says they belong; what was done, in words, [] if all was right.

    An empty ledger says nothing, so aliases set by hand before the first promotion stay.

    Raises:
        DataInvalid: The ledger was tampered with.
        Infrastructure: The store or MLflow is unreachable.
    """
    done: list[str] = []
    while True:
        lines = ledger.history(store, model)
        done += _move_aliases(model, lines)
        # A writer that came between has moved the aliases to its line, or we just undid that: look again.
        if len(ledger.history(store, model)) == len(lines):
            return done


def decided_against(lines: Sequence[ledger.Line], version: str) -> ledger.Line | None:
    """The line by which a person rejected a version or rolled it back; None if it stands otherwise.

    Nobody's rejection (a question that ran out of time) counts for nothing.
    """
    last = None
    for line in lines:
        if line.action == "rollback" and line.from_version == version:
            last = line
        elif line.to_version == version:
            last = line if line.action == "reject" and line.actor != NOBODY else None
    return last


def audit(store: Store, model: str) -> list[str]:
    """What is wrong with the ledger, or between it and MLflow, in words; changes nothing."""
    champion = registry.find_version(model, "champion")
    found = ledger.verify_chain(store, model, champion.tags.get("perennial.ledger", "") if champion else "")
    if found:
        return found
    now = ledger.standing(ledger.history(store, model))
    held = champion.version if champion else None
    if now.champion is not None and now.champion != held:
        found.append(f"the champion is version {now.champion} by the ledger and {held or 'none'} in MLflow")
    return found


def _decide(store: Store, model: str, make: ledger.Make) -> Decision:
    repairs = reconcile(store, model)
    line = ledger.append(store, model, make)
    reconcile(store, model)
    lines = ledger.history(store, model)
    said = line or lines[-1]
    registry.tag_version(
        model,
        said.to_version,
        {"perennial.decision": f"{said.action} by {said.actor}", "perennial.ledger": said.hash},
    )
    now = ledger.standing(lines)
    return Decision(said, line is None, now.champion, now.previous, repairs)


def _move_aliases(model: str, lines: Sequence[ledger.Line]) -> list[str]:
    now = ledger.standing(lines)
    held = registry.aliases(model)
    done = []
    if now.champion is not None:
        for alias, wanted in (("previous", now.previous), ("champion", now.champion)):
            if held.get(alias) == wanted:
                continue
            if wanted is not None and registry.find_version(model, wanted) is None:
                wanted = None  # deleted from MLflow: nothing to point at, and it must not block what follows
            if held.get(alias) == wanted:
                continue
            if wanted is None:
                registry.delete_alias(model, alias)
            else:
                registry.set_alias(model, alias, wanted)
            done.append(f"{alias}: {held.get(alias) or 'none'} -> {wanted or 'none'}")
    waiting = _candidate(lines)
    if lines and held.get("candidate") != waiting:
        if waiting is None:
            registry.delete_alias(model, "candidate")
        else:
            registry.set_alias(model, "candidate", waiting)
        done.append(f"candidate: {held.get('candidate') or 'none'} -> {waiting or 'none'}")
    return done


def _candidate(lines: Sequence[ledger.Line]) -> str | None:
    """The version that waits for a decision: the last registered one, unless it was decided upon since."""
    waiting = None
    for line in lines:
        if line.action == "register":
            waiting = line.to_version
        elif line.action in ("promote", "reject") and line.to_version == waiting:
            waiting = None
    return waiting


def _champion(lines: Sequence[ledger.Line], adopted: str | None) -> str | None:
    """The champion by the ledger; before its first promotion, the one that the alias names."""
    return ledger.standing(lines).champion if _last_move(lines) else adopted


def _champion_digest(model: str, lines: Sequence[ledger.Line], adopted: str | None) -> str | None:
    """The champion's digest: by the ledger even where its version was deleted from MLflow since."""
    last = _last_move(lines)
    if last is not None:
        return last.to_digest
    return registry.version(model, adopted).digest if adopted else None


def _last_move(lines: Sequence[ledger.Line]) -> ledger.Line | None:
    moves = [line for line in lines if line.action in ("promote", "rollback")]
    return moves[-1] if moves else None


def _same(line: ledger.Line, action: str, version: str, actor: str, reason: str) -> bool:
    return (line.action, line.to_version, line.actor, line.reason) == (action, version, actor, reason)


def _asked_for(store: Store, model: str, version: str, action: str, actor: str, reason: str) -> VersionInfo:
    """The version meant; a retry of a decision on `candidate` finds it in the ledger's last line instead."""
    found = registry.find_version(model, version)
    lines = ledger.history(store, model)
    if found is None and version == "candidate" and lines:
        last = lines[-1]
        if _same(last, action, last.to_version, actor, reason):
            return registry.version(model, last.to_version)
    return found or registry.version(model, version)


def _check_artefact(store: Store, wanted: VersionInfo) -> None:
    signature.verify(store, wanted)
    damage = problems(store, wanted.digest)
    if damage:
        raise DataInvalid(
            f"version {wanted.version} of '{wanted.name}': its model {wanted.digest} in {store.uri} is "
            f"damaged: {'; '.join(damage[:5])}. Run its recipe again: the step that made it repairs it"
        )


def _require(actor: str, reason: str) -> None:
    if not actor.strip() or not reason.strip():
        raise ConfigInvalid("a decision needs a name and a reason: --by WHO --reason TEXT")
