"""How many people a promotion needs, and who they were: two names where the recipe says `approvals: 2`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.recipe.failures import ConfigInvalid

BETWEEN = " and "
"""Stands between the names of people who decided together; so no name may hold it."""

APPROVALS = "perennial.approvals"
"""Tag of a version whose recipe asked for more than one approval. It is signed with the version: whoever can
only write to MLflow cannot take it away."""


def required(tags: Mapping[str, str]) -> int:
    """How many different people must approve a version, by its tags."""
    return int(tags.get(APPROVALS) or 1)


def actors(names: Sequence[str]) -> str:
    """The people who decided, as the ledger names them: `ada`, or `ada and ben`.

    Args:
        names: As given; a name counts once, however it is written.

    Raises:
        ConfigInvalid: There is none, or one that reads as two people.
    """
    people: dict[str, str] = {}
    for name in names:
        if BETWEEN in name.strip():
            raise ConfigInvalid(
                f"'{name.strip()}' reads as two people: give each their own --by; where it is one name, "
                f"write it without '{BETWEEN.strip()}' ('{name.strip().replace(BETWEEN, ' & ')}')"
            )
        if name.strip():
            people.setdefault(name.strip().casefold(), name.strip())
    if not people:
        raise ConfigInvalid("a decision needs a name and a reason: --by WHO --reason TEXT")
    return BETWEEN.join(people.values())


def people_of(actor: str) -> set[str]:
    """The people of a ledger line's actor, as `actors` wrote it: how a name is written does not matter."""
    return {name.strip().casefold() for name in actor.split(BETWEEN)}
