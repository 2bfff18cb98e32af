"""What MLflow shows of a model follows its ledger: aliases, the decision on a version's page, deletions.

The ledger's line is written first. A process that dies after it leaves MLflow behind; `reconcile` catches it
up, and every decision begins with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.artefacts import Store
from tasks.recipe.failures import DataInvalid
from tasks.recipe.models import NOBODY
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo

DECISION = "perennial.decision"
LEDGER = "perennial.ledger"
"""Digest of the last line about a version: a ledger that was cut off or rewritten no longer holds it."""

RESTORE = "restore it from a backup; nothing is registered, promoted or rolled back until then"


def reconcile(store: Store, model: str) -> list[str]:
    """Move everything to where the ledger says it belongs; what was done, in words, [] if all was right.

    An empty ledger says nothing, so aliases set by hand before the first promotion stay.

    Raises:
        DataInvalid: The ledger was tampered with: altered, rewritten or cut off. Nothing was moved.
        Infrastructure: The store or MLflow is unreachable.
    """
    done: list[str] = []
    while True:
        lines = ledger.history(store, model)
        done += _follow(store, model, lines)
        # A writer that came between has moved the aliases to its line, or we just undid that: look again.
        if len(ledger.history(store, model)) == len(lines):
            return done


def behind(
    lines: Sequence[ledger.Line], aliases: Mapping[str, str], versions: Sequence[VersionInfo]
) -> list[str]:
    """Where MLflow is behind the ledger, in the words of `reconcile`; [] where it follows."""
    return [
        *(words for _, _, words in _moves(lines, aliases, {each.version for each in versions})),
        *(words for _, _, words in _tags(lines, versions)),
        *(f"version {each.version}: deleted, as the ledger says" for each in _deleted(lines, versions)),
    ]


def lost(
    store: Store, model: str, lines: Sequence[ledger.Line], versions: Sequence[VersionInfo]
) -> tuple[str, str] | None:
    """A line that MLflow has on record and the ledger does not hold: what is wrong, and what to do.

    A process that dies leaves the ledger ahead of MLflow, never behind it. Nothing may follow a ledger that
    is behind: the tags are all that shows it.
    """
    known = {line.hash for line in lines}
    found = [each for each in versions if each.tags.get(LEDGER) and each.tags[LEDGER] not in known]
    if not found:
        return None
    told = (
        f"the line {found[0].tags[LEDGER]} that MLflow has on record for version {found[0].version} is not "
        f"in the ledger {store.locate(f'ledger/{model}')}: it was cut off or rewritten"
    )
    numbers = ", ".join(each.version for each in found)
    return told, (
        f"{RESTORE}. If there is none and the ledger may stay as it is, delete the tag {LEDGER} of version "
        f"{numbers} in MLflow: what the lost lines decided is undone by the next decision"
    )


def decided_against(lines: Sequence[ledger.Line], version: str) -> ledger.Line | None:
    """The line by which a person rejected a version or rolled it back; None if it stands otherwise.

    Nobody's rejection (a question that ran out of time) counts for nothing.
    """
    last = None
    for line in lines:
        if line.action == "rollback" and line.from_version == version:
            last = line
        elif line.to_version == version and (line.action, line.actor) != ("reject", NOBODY):
            last = line if line.action == "reject" else None
    return last


def decided(lines: Sequence[ledger.Line], version: str) -> ledger.Line | None:
    """The last line about a version, where that decided on it; None while it waits or is not on record."""
    last = None
    for line in lines:
        if version == line.to_version or (line.action == "rollback" and version == line.from_version):
            last = line
    return None if last is None or last.action in ("register", "approve") else last


def waiting(lines: Sequence[ledger.Line]) -> str | None:
    """The version that waits for a decision: the last registered one, unless it was decided upon since."""
    found = None
    for line in lines:
        if line.action == "register":
            found = line.to_version
        elif line.action in ("promote", "reject", "delete") and line.to_version == found:
            found = None
    return found


def _follow(store: Store, model: str, lines: Sequence[ledger.Line]) -> list[str]:
    versions = registry.versions(model)
    # A line that was written since the ledger was read is no lost one: look again before saying so.
    if lost(store, model, lines, versions):
        lines = ledger.history(store, model)
        if found := lost(store, model, lines, versions):
            raise DataInvalid(f"{found[0]}; {found[1]}")
    if not lines:
        return []
    done = []
    for each in _deleted(lines, versions):
        registry.delete_version(model, each.version)
        done.append(f"version {each.version}: deleted, as the ledger says")
    versions = [each for each in versions if each not in _deleted(lines, versions)]
    for alias, wanted, words in _moves(lines, registry.aliases(model), {each.version for each in versions}):
        if wanted is None:
            registry.delete_alias(model, alias)
        else:
            registry.set_alias(model, alias, wanted)
        done.append(words)
    for number, tags, words in _tags(lines, versions):
        registry.tag_version(model, number, tags)
        done.append(words)
    return done


def _moves(
    lines: Sequence[ledger.Line], held: Mapping[str, str], there: set[str]
) -> list[tuple[str, str | None, str]]:
    """Alias, the version it must name (None for none), and the move in words; `previous` moves first."""
    if not lines:
        return []
    now = ledger.standing(lines)
    wanted: dict[str, str | None] = {}
    if now.champion is not None:
        wanted = {"previous": now.previous, "champion": now.champion}
    wanted["candidate"] = waiting(lines)
    found = []
    for alias, number in wanted.items():
        # Deleted from MLflow: there is nothing to point at, and it must not block what follows.
        target = number if number in there else None
        if held.get(alias) != target:
            found.append((alias, target, f"{alias}: {held.get(alias) or 'none'} -> {target or 'none'}"))
    return found


def _tags(
    lines: Sequence[ledger.Line], versions: Sequence[VersionInfo]
) -> list[tuple[str, dict[str, str], str]]:
    """Version, the tags that it must have by the last line about it and has not, and that in words."""
    found = []
    for each in versions:
        wanted = _wanted_tags(lines, each.version)
        missing = {name: value for name, value in wanted.items() if each.tags.get(name) != value}
        if missing:
            words = f"version {each.version}: the ledger's last line about it is noted on its page"
            found.append((each.version, missing, words))
    return found


def _wanted_tags(lines: Sequence[ledger.Line], version: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for line in lines:
        if line.to_version == version:
            tags = {DECISION: f"{line.action} by {line.actor}", LEDGER: line.hash}
        elif line.action == "rollback" and line.from_version == version:
            tags = {DECISION: f"taken back by {line.actor}", LEDGER: line.hash}
    return tags


def _deleted(lines: Sequence[ledger.Line], versions: Sequence[VersionInfo]) -> list[VersionInfo]:
    """Versions whose deletion is on record and which are still there."""
    gone = {line.to_version for line in lines if line.action == "delete"}
    return [each for each in versions if each.version in gone]
