"""Remove a version from MLflow, unless an alias, the ledger or another version needs it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks.artefacts import Store
from tasks.recipe.failures import ConfigInvalid
from tasks.release.aliases import reconcile
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo


def delete(store: Store, model: str, version: str, actor: str, reason: str) -> ledger.Line:
    """Delete a version: the ledger gets its line first, then MLflow forgets the version.

    Its model stays in the store, where the ledger names it, until nothing does.

    Args:
        store: Holds the ledger.
        model: The registered model.
        version: MLflow's number.
        actor: Who decided.
        reason: Why, in words.

    Raises:
        ConfigInvalid: There is no such version, no actor or reason, or something needs the version.
        DataInvalid: The ledger was tampered with.
        Infrastructure: The store or MLflow is unreachable.
    """
    if not actor.strip() or not reason.strip():
        raise ConfigInvalid("a deletion needs a name and a reason: --by WHO --reason TEXT")
    reconcile(store, model)
    wanted = registry.version(model, version)
    versions, aliases = registry.versions(model), registry.aliases(model)

    def make(lines: Sequence[ledger.Line]) -> ledger.Draft:
        held = needs(wanted, lines, versions, aliases)
        if held:
            raise ConfigInvalid(f"version {wanted.version} of '{model}' stays: {'; '.join(held)}")
        return ledger.Draft(
            action="delete",
            actor=actor,
            from_version=ledger.standing(lines).champion,
            to_version=wanted.version,
            to_digest=wanted.digest,
            evidence=wanted.tags.get("perennial.report", ""),
            reason=reason,
        )

    line = ledger.append(store, model, make)
    assert line is not None  # `make` gives a line or raises
    reconcile(store, model)
    return line


def needs(
    version: VersionInfo,
    lines: Sequence[ledger.Line],
    versions: Sequence[VersionInfo],
    aliases: dict[str, str],
) -> list[str]:
    """What needs a version, each with what would have to be done first; [] if it can go."""
    number, model = version.version, version.name
    found = [f"it is the {alias}" for alias, held in sorted(aliases.items()) if held == number]
    if aliases.get("candidate") == number:
        found[0] += f" (first: `perennial reject --model {model} --version {number}`)"
    moves = [line for line in lines if line.action in ledger.MOVES and line.to_version == number]
    if moves:
        found.append(f"it was in production from {moves[0].time} (line {moves[0].seq} of the ledger)")
    others = [each for each in versions if each.version != number]
    if version.digest and version.digest not in {each.digest for each in others}:
        found += [
            f"version {each.version} was made from it" for each in others if version.digest in made_from(each)
        ]
    return found


def made_from(version: VersionInfo) -> set[str]:
    """Digests of the models that a version names as its origin."""
    found: set[str] = set()
    for tag in ("perennial.parents", "perennial.base"):
        found |= set(json.loads(version.tags.get(tag, "[]")))
    for tag in ("perennial.bindings", "perennial.uris"):
        found |= set(json.loads(version.tags.get(tag, "{}")).values())
    return found
