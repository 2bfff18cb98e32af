"""How many people a promotion needs, and who they were: two names where the recipe says `approvals: 2`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import NOBODY

APPROVALS = "perennial.approvals"
"""Tag of a version whose recipe asked for more than one approval. It is signed with the version: whoever can
only write to MLflow cannot take it away."""


def required(tags: Mapping[str, str]) -> int:
    """How many different people must approve a version, by its tags."""
    return int(tags.get(APPROVALS) or 1)


def actors(names: Sequence[str], needed: int = 1) -> str:
    """The people who decided, as the ledger names them: `ada`, or `ada and ben`.

    Args:
        names: As given; a name counts once, however it is written.
        needed: How many different people are needed.

    Raises:
        ConfigInvalid: There are too few of them.
    """
    people: dict[str, str] = {}
    for name in names:
        if name.strip():
            people.setdefault(name.strip().casefold(), name.strip())
    counted = [name for name in people.values() if name != NOBODY] if needed > 1 else list(people.values())
    if len(counted) < max(needed, 1):
        raise ConfigInvalid(
            f"this version needs the approval of {needed} different people (its recipe's release.approvals), "
            f"and it has that of {' and '.join(counted) or 'nobody'}; give each with --by"
            if needed > 1
            else "a decision needs a name and a reason: --by WHO --reason TEXT"
        )
    return " and ".join(people.values())
