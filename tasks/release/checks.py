"""What is checked of a version before the aliases move to it: each refuses by raising, with the remedy."""

from __future__ import annotations

from collections.abc import Callable

from tasks.artefacts import Store, problems
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.release import signature
from tasks.release.cards import read_card
from tasks.tracking import registry
from tasks.tracking.registry import VersionInfo

Check = Callable[[Store, VersionInfo], None]


def signed(store: Store, version: VersionInfo) -> None:
    """It is what a trusted key signed."""
    signature.verify(store, version)


def whole(store: Store, version: VersionInfo) -> None:
    """Its model is in the store, every byte of it."""
    damage = problems(store, version.digest)
    if damage:
        raise DataInvalid(
            f"version {version.version} of '{version.name}': its model {version.digest} in {store.uri} is "
            f"damaged: {'; '.join(damage[:5])}. Run its recipe again: the step that made it repairs it"
        )


def described(store: Store, version: VersionInfo) -> None:
    """It has its model card."""
    read_card(store, version)


def numbered(store: Store, version: VersionInfo) -> None:
    """No other model was registered under its semantic version before: changed weights are a new version."""
    twins = [
        each
        for each in registry.versions(version.name)
        if version.semantic
        and each.semantic == version.semantic
        and each.digest != version.digest
        and int(each.version) < int(version.version)
    ]
    if twins:
        raise ConfigInvalid(
            f"version {version.version} of '{version.name}' calls itself {version.semantic}, which is "
            f"another model already: version {twins[0].version}. A number is derived from what changed and "
            f"never typed: `perennial delete {version.name} {version.version} --by YOU --reason TEXT`, then "
            f"`perennial register --plan {version.tags.get('perennial.plan', 'URI')}`"
        )


PROMOTION: tuple[Check, ...] = (signed, whole, described, numbered)
"""Before a version becomes the champion for the first time."""

ROLLBACK: tuple[Check, ...] = (signed, whole)
"""Before it is put back: the way back must not wait for a card."""
