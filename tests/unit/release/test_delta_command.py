"""`perennial delta`: which versions may be kept as a difference, and that a promotion makes them whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.artefacts import Store, commit, problems
from tasks.artefacts.stored_delta import find_delta
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.release import signature
from tasks.release.cards import keep
from tasks.release.promote import promote, reconcile
from tasks.runner import handover, release
from tasks.runner.settings import Settings
from tasks.tracking import ledger, registry
from tasks.tracking.registry import VersionInfo
from tasks.tracking.runs import RunFacts, open_parent
from tasks.tracking.sources import source_of
from tests.unit.artefacts.test_delta import bf16, write_tensors


@pytest.fixture
def settings(store: Store, tmp_path: Path, tracking: str) -> Settings:
    return Settings(tmp_path / "home", store.uri, tracking)


@pytest.fixture
def family(store: Store, tmp_path: Path) -> list[VersionInfo]:
    """Four versions of `pydocs`, each a small step from the first; the first is the champion."""
    run = open_parent(RunFacts("pydocs", "run-1", "pydocs", "file:///plan.json"))
    start = np.random.default_rng(0).normal(0, 0.02, (100, 100))
    made = []
    for number in range(1, 5):
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        step = 1e-3 * np.random.default_rng(number).normal(0, 1, start.shape) if number > 1 else 0.0
        write_tensors(folder / "model.safetensors", {"w": ("BF16", bf16(start * (1 + step)))})
        digest = commit(store, folder, kind="model", parents=[], producer="test", meta={}).digest
        tags = {
            "perennial.candidate": digest,
            "perennial.report": f"report-{number}",
            "perennial.card": keep(store, f"# pydocs {number}"),
        }
        version = registry.register("pydocs", source_of(store, digest), run, tags)
        signature.sign(store, version, "test")
        draft = ledger.Draft(action="register", actor="test", to_version=str(number), to_digest=digest)
        ledger.append(store, "pydocs", lambda lines, draft=draft: draft)  # type: ignore[misc]
        made.append(registry.version("pydocs", str(number)))
    reconcile(store, "pydocs")
    promote(store, "pydocs", "1", "ada", "first")
    return made


def delta(settings: Settings, version: str, base: str | None = None, restore: bool = False) -> str:
    return handover.delta_version(settings, "pydocs", version, base=base, restore=restore)


def test_old_versions_cost_a_fraction_and_promotion_makes_one_whole(
    settings: Settings, family: list[VersionInfo], store: Store
) -> None:
    words = delta(settings, "2")
    assert f"kept as its difference from {family[0].digest}" in words
    assert "exact" in words
    assert find_delta(store, family[1].digest) is not None
    assert problems(store, family[1].digest) == []
    assert delta(settings, "2", base=family[2].digest).startswith("version 2 of 'pydocs' is kept")
    said = release.decide(
        "promote", settings, plan=None, model="pydocs", version="2", by=["ada"], reason="after all"
    ).words
    assert "champion: 2, previous: 1" in said
    assert find_delta(store, family[1].digest) is None
    assert problems(store, family[1].digest) == []


def test_what_others_read_stays_whole(settings: Settings, family: list[VersionInfo]) -> None:
    with pytest.raises(ConfigInvalid, match="version 1 of 'pydocs' is the champion, which others read"):
        delta(settings, "1")
    with pytest.raises(ConfigInvalid, match="is the candidate"):
        delta(settings, "4")
    with pytest.raises(ConfigInvalid, match="--base has no effect with --restore"):
        delta(settings, "2", base="1", restore=True)
    assert delta(settings, "2", restore=True) == "version 2 of 'pydocs' is whole"
    delta(settings, "2", base="3")
    assert delta(settings, "2", restore=True) == "version 2 of 'pydocs' is whole again"
    registry.tag_version("pydocs", "2", {"perennial.report": "another"})
    with pytest.raises(DataInvalid, match="is not what was signed"):
        delta(settings, "2")
    assert family[0].digest


def test_without_a_champion_the_base_is_named(settings: Settings, family: list[VersionInfo]) -> None:
    assert len(family) == 4
    registry.delete_alias("pydocs", "champion")
    with pytest.raises(ConfigInvalid, match=r"has no champion .* --base NUMBER"):
        delta(settings, "2")
