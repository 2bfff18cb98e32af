"""Promotion, rejection and rollback: a ledger line first, then the aliases, which follow the ledger.

A process that dies between the two leaves a line without its aliases; the next call, or `reconcile`, moves
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.artefacts import Store
from tasks.recipe.failures import ConfigInvalid, GatesFailed
from tasks.recipe.models import NOBODY
from tasks.release.aliases import decided
from tasks.release.aliases import reconcile as reconcile
from tasks.release.approvals import people_of, required
from tasks.release.audit import ledger_problems
from tasks.release.checks import PROMOTION, ROLLBACK, Check
from tasks.release.overtaken import judged_against, overtaken
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo

NO_PERSON = frozenset({NOBODY, "policy"})
"""Actors that are no people: their word is no approval where several are needed."""


@dataclass(frozen=True)
class Decision:
    """What a decision left behind.

    Attributes:
        line: The ledger's line.
        repeated: The line was there already: a retry.
        champion: The version in production now; None if there is none.
        previous: The version that a rollback would bring back.
        repairs: What an earlier call had left undone and this one did, in words.
        missing: Approvals by other people that the promotion still needs.
    """

    line: ledger.Line
    repeated: bool
    champion: str | None
    previous: str | None
    repairs: list[str] = field(default_factory=list)
    missing: int = 0


def promote(
    store: Store,
    model: str,
    version: str,
    actor: str,
    reason: str,
    evidence: str = "",
    run: str = "",
    *,
    over: str = "",
    checks: Sequence[Check] = PROMOTION,
) -> Decision:
    """Make a version the champion and the old champion the previous one.

    Repeating the same decision (same version, actor, reason) changes nothing, so that a retry is safe. Where
    the version needs several approvals, the line says `approve` until the last of them.

    Args:
        store: Holds the model and the ledger.
        model: The registered model.
        version: MLflow's number, or the alias `candidate`.
        actor: Who decided.
        reason: Why, in words.
        evidence: Digest of the report; "" for the one that the version was registered with.
        run: The Perennial run that asks, or "".
        over: The version in production that the caller knows it takes the place of, or "". Needed where the
            candidate was judged against another champion than the one of now. Without it, it is whoever is
            champion as this call begins: of two promotions at the same instant one is refused.
        checks: Run in this order before anything is written; each refuses by raising.

    Raises:
        ConfigInvalid: No such version, no actor or reason, it is the champion already, another version became
            it meanwhile, it has no card, or it is not signed by a trusted key.
        GatesFailed: It was judged against another champion than the one in production now.
        DataInvalid: The model's artefact or card is missing or altered, the version is not what was signed,
            or the ledger was tampered with.
        Infrastructure: The store or MLflow is unreachable.
    """
    _require(actor, reason)
    repairs = reconcile(store, model)
    wanted = _asked_for(store, model, version, ("promote", "approve"), actor, reason)
    adopted = registry.aliases(model).get("champion")
    expected = over or _champion(ledger.history(store, model), adopted)
    judged = judged_against(store, wanted)
    for check in checks:
        check(store, wanted)
    needed, people = required(wanted.tags), people_of(actor)
    repeated: list[ledger.Line] = []

    def make(lines: Sequence[ledger.Line]) -> ledger.Draft | None:
        _require_there(lines, wanted)
        held = _champion(lines, adopted)
        done = _done(lines, "promote", wanted.version, actor, reason, run)
        last = _last_move(lines)
        if done is not None and (run or done is last):
            if held != wanted.version:
                raise ConfigInvalid(_undone(done, held, last))
            repeated.append(done)
            return None
        if held == wanted.version:
            raise ConfigInvalid(
                f"version {wanted.version} of '{model}' is the champion already{_since(last)}"
            )
        between = overtaken(judged, held, _champion_digest(model, lines, adopted), lines)
        if between and over != held:
            raise GatesFailed(
                f"version {wanted.version} of '{model}': {between}. Its evidence says nothing of version "
                f"{held}: run its recipe again, which judges against that; or, to replace it all the same: "
                f"--over {held}"
            )
        if held != expected:
            raise ConfigInvalid(_meanwhile(model, wanted, expected, held, last))
        approved = approvals(lines, wanted.version)
        action: ledger.Action = "promote"
        if needed > 1:
            if people & NO_PERSON:
                raise ConfigInvalid(
                    f"version {wanted.version} of '{model}' needs the approval of {needed} people, and "
                    f"'{actor}' is none"
                )
            if len(approved.keys() | people) < needed:
                if people <= approved.keys():
                    repeated.append(approved[min(people)])
                    return None
                action = "approve"
        return ledger.Draft(
            action=action,
            actor=actor,
            from_version=held,
            to_version=wanted.version,
            from_digest=_champion_digest(model, lines, adopted),
            to_digest=wanted.digest,
            evidence=evidence or wanted.tags.get("perennial.report", ""),
            reason=reason,
            run=run,
        )

    decision = _decide(store, model, make, repeated, repairs)
    if decision.line.action != "approve":
        return decision
    given = len(approvals(ledger.history(store, model), wanted.version))
    return Decision(
        decision.line,
        decision.repeated,
        decision.champion,
        decision.previous,
        decision.repairs,
        max(needed - given, 0),
    )


def reject(
    store: Store, model: str, version: str, actor: str, reason: str, evidence: str = "", run: str = ""
) -> Decision:
    """Record that a version does not become the champion, and take the alias `candidate` from it.

    A question that ran out of time (the actor is nobody) decides on what still waits, and changes nothing
    that a person decided meanwhile: then the line is that person's.

    Raises:
        ConfigInvalid: No such version, no actor or reason, or it is in production.
        DataInvalid: The ledger was tampered with.
        Infrastructure: The store or MLflow is unreachable.
    """
    _require(actor, reason)
    repairs = reconcile(store, model)
    if actor == NOBODY and (line := decided(ledger.history(store, model), version)):  # deleted, perhaps
        return _decide(store, model, lambda _: None, [line], repairs)
    wanted = _asked_for(store, model, version, ("reject",), actor, reason)
    adopted = registry.aliases(model).get("champion")
    repeated: list[ledger.Line] = []

    def make(lines: Sequence[ledger.Line]) -> ledger.Draft | None:
        if actor == NOBODY and (line := decided(lines, wanted.version)):
            repeated.append(line)
            return None
        _require_there(lines, wanted)
        held = _champion(lines, adopted)
        if held == wanted.version:
            raise ConfigInvalid(
                f"version {wanted.version} of '{model}' is in production; take it back with "
                f"`perennial rollback {model}`"
            )
        if lines and _same(lines[-1], "reject", wanted.version, actor, reason):
            repeated.append(lines[-1])
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

    return _decide(store, model, make, repeated, repairs)


def rollback(
    store: Store,
    model: str,
    actor: str,
    reason: str,
    run: str = "",
    *,
    from_version: str = "",
    to_version: str = "",
    checks: Sequence[Check] = ROLLBACK,
) -> Decision:
    """Make the previous version the champion again; the one taken back becomes the previous one.

    Repeating the same decision (same run, or by hand the same actor and reason) changes nothing; a second
    rollback for another reason undoes the first.

    Args:
        store: Holds the model and the ledger.
        model: The registered model.
        actor: Who decided.
        reason: Why, in words.
        run: The run that asks, or "".
        from_version: The champion that was shown to who decided, or "": of two people who take the same
            version back, the second one would otherwise bring it in again.
        to_version: The version that was shown to come back, or "".
        checks: Run in this order on the version that comes back, before anything is written.

    Raises:
        ConfigInvalid: There is no previous version, it is not signed by a trusted key, another decision came
            between, or champion and previous are no longer those that were shown.
        DataInvalid: Its artefact is missing or altered, it is not what was signed, or the ledger was tampered
            with.
        Infrastructure: The store or MLflow is unreachable.
    """
    _require(actor, reason)
    repairs = reconcile(store, model)
    expected = ledger.standing(ledger.history(store, model))
    repeated: list[ledger.Line] = []

    def make(lines: Sequence[ledger.Line]) -> ledger.Draft | None:
        last = _last_move(lines)
        done = next((line for line in lines if run and line.action == "rollback" and line.run == run), None)
        if done is None and last is not None and not run and from_version in ("", last.from_version):
            done = last if (last.action, last.actor, last.reason) == ("rollback", actor, reason) else None
        now = ledger.standing(lines)
        if done is not None:
            if now.champion != done.to_version:
                raise ConfigInvalid(_undone(done, now.champion, last))
            repeated.append(done)
            return None
        if from_version not in ("", now.champion) or to_version not in ("", now.previous):
            raise ConfigInvalid(_not_as_shown(model, from_version, to_version, now, last))
        if now != expected:
            raise ConfigInvalid(
                f"model '{model}': meanwhile version {now.champion} became the champion{_since(last)}; look "
                f"at it, and roll back again if that is still what you want"
            )
        if now.champion is None or now.previous is None:
            raise ConfigInvalid(
                f"model '{model}' has no previous version to go back to "
                f"(champion: {now.champion or 'none'}); promote another version instead"
            )
        back = registry.version(model, now.previous)
        for check in checks:
            check(store, back)
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

    return _decide(store, model, make, repeated, repairs)


def audit(store: Store, model: str) -> list[str]:
    """What is wrong with the ledger, or between it and MLflow, in words; changes nothing."""
    return ledger_problems(store, model)


def approvals(lines: Sequence[ledger.Line], version: str) -> dict[str, ledger.Line]:
    """Who approved a version since it was last registered or rejected: name -> line, the first of each.

    A name counts once, however it is written.
    """
    found: dict[str, ledger.Line] = {}
    for line in lines:
        if line.to_version == version and line.action == "approve":
            found = {name: line for name in people_of(line.actor)} | found
        elif line.to_version == version and line.action in ("register", "reject", *ledger.MOVES):
            found = {}
    return found


def _decide(
    store: Store, model: str, make: ledger.Make, repeated: Sequence[ledger.Line], repairs: list[str]
) -> Decision:
    """Append and follow; `make` leaves the line that it found in `repeated` where it returns None."""
    line = ledger.append(store, model, make)
    reconcile(store, model)
    now = ledger.standing(ledger.history(store, model))
    return Decision(line or repeated[-1], line is None, now.champion, now.previous, repairs)


def _meanwhile(
    model: str, wanted: VersionInfo, expected: str | None, held: str | None, last: ledger.Line | None
) -> str:
    """Another version became the champion since the decision was made."""
    was = f"version {expected}" if expected else "no champion"
    now = f"version {held} is the champion{_since(last)}" if held else "there is none"
    return (
        f"version {wanted.version} of '{model}' was to replace {was}, and now {now}. Look at both "
        f"(`perennial compare {model} {held or expected} {wanted.version}`), and decide again if that is "
        f"still what you want"
    )


def _undone(done: ledger.Line, held: str | None, last: ledger.Line | None) -> str:
    """The very decision is on record, and what it put into production is there no more."""
    words = "promoted" if done.action == "promote" else "brought back"
    again = (
        f"with another reason, or `perennial promote --model {done.model} --version {done.to_version}`"
        if done.action == "promote"
        else f"in a new run, or `perennial rollback {done.model}`"
    )
    return (
        f"version {done.to_version} of '{done.model}' was {words} by this decision on {done.time} (line "
        f"{done.seq} of the ledger), and version {held or 'none'} is the champion{_since(last)}. Nothing was "
        f"changed: the same decision counts once. If version {done.to_version} is to be the champion again, "
        f"decide anew: {again}"
    )


def _not_as_shown(
    model: str, from_version: str, to_version: str, now: ledger.Standing, last: ledger.Line | None
) -> str:
    """A rollback was decided on what is no longer so."""
    asked = f"version {from_version}" if from_version else "the champion"
    back = f"version {to_version} was" if to_version else "the previous one was"
    return (
        f"model '{model}': {asked} was to be taken back and {back} to come back, but now version "
        f"{now.champion or 'none'} is the champion{_since(last)} and {now.previous or 'none'} the previous "
        f"one. Nothing was changed: look at both, and roll back again if that is still what you want"
    )


def _since(last: ledger.Line | None) -> str:
    return f" since {last.time} (by {last.actor}: {last.reason})" if last else ""


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
    moves = [line for line in lines if line.action in ledger.MOVES]
    return moves[-1] if moves else None


def _done(
    lines: Sequence[ledger.Line], action: str, version: str, actor: str, reason: str, run: str
) -> ledger.Line | None:
    """The last line of this very decision; by hand, whatever run it was first made for."""
    found = [
        line for line in lines if _same(line, action, version, actor, reason) and (not run or line.run == run)
    ]
    return found[-1] if found else None


def _same(line: ledger.Line, action: str, version: str, actor: str, reason: str) -> bool:
    return (line.action, line.to_version, line.actor, line.reason) == (action, version, actor, reason)


def _asked_for(
    store: Store, model: str, version: str, actions: Sequence[str], actor: str, reason: str
) -> VersionInfo:
    """The version meant; a retry of a decision on `candidate` finds it in the ledger's last line instead."""
    found = registry.find_version(model, version)
    lines = ledger.history(store, model)
    if found is None and version == "candidate" and lines:
        last = lines[-1]
        if any(_same(last, action, last.to_version, actor, reason) for action in actions):
            return registry.version(model, last.to_version)
    return found or registry.version(model, version)


def _require_there(lines: Sequence[ledger.Line], version: VersionInfo) -> None:
    """Refuse a version that was deleted since it was looked at: as champion it would be none."""
    for line in lines:
        if line.action == "delete" and line.to_version == version.version:
            raise ConfigInvalid(
                f"version {version.version} of '{version.name}' was deleted on {line.time} by {line.actor}: "
                f"{line.reason}. Its model is still in the store: register its run again for a new number "
                f"(`perennial register --plan {version.tags.get('perennial.plan', 'URI')}`)"
            )


def _require(actor: str, reason: str) -> None:
    if not actor.strip() or not reason.strip():
        raise ConfigInvalid("a decision needs a name and a reason: --by WHO --reason TEXT")
