from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artefacts import Store
from tasks.recipe.failures import ConfigInvalid, Infrastructure
from tasks.tracking import registry
from tasks.tracking.runs import RunFacts, open_parent
from tasks.tracking.sources import source_of


@pytest.fixture
def run() -> str:
    return open_parent(RunFacts("pydocs", "run-1", "pydocs", "file:///plan.json"))


def tags(digest: str, **more: str) -> dict[str, str]:
    return {
        "perennial.candidate": digest,
        "perennial.report": "r1",
        "perennial.semantic_version": "1.0.0",
    } | more


def test_nothing_is_registered_at_first() -> None:
    assert registry.aliases("pydocs") == {}
    assert registry.versions("pydocs") == []
    assert registry.find_version("pydocs", "champion") is None
    assert registry.find_version("pydocs", "1") is None


def test_p11_registers_by_reference_once(store: Store, model: str, run: str) -> None:
    source = source_of(store, model)
    first = registry.register("pydocs", source, run, tags(model), "the first")
    assert (first.version, first.digest, first.source, first.semantic, first.run_id, first.description) == (
        "1",
        model,
        source,
        "1.0.0",
        run,
        "the first",
    )
    assert registry.register("pydocs", source, run, tags(model)) == first
    other = registry.register("pydocs", source, run, tags(model, **{"perennial.report": "r2"}))
    assert other.version == "2"
    assert [each.version for each in registry.versions("pydocs")] == ["1", "2"]
    assert registry.models() == ["pydocs"]


def test_aliases_move_and_resolve(store: Store, model: str, run: str) -> None:
    for report in ("r1", "r2"):
        registry.register("pydocs", source_of(store, model), run, tags(model, **{"perennial.report": report}))
    registry.set_alias("pydocs", "champion", "1")
    registry.set_alias("pydocs", "champion", "2")
    registry.set_alias("pydocs", "previous", "1")
    assert registry.aliases("pydocs") == {"champion": "2", "previous": "1"}
    assert registry.resolve("models:/pydocs@champion").version == "2"
    assert registry.resolve("models:/pydocs/1").version == "1"
    registry.delete_alias("pydocs", "previous")
    registry.delete_alias("pydocs", "previous")
    assert registry.aliases("pydocs") == {"champion": "2"}


def test_a_version_that_is_not_there_is_told_with_those_that_are(store: Store, model: str, run: str) -> None:
    registry.register("pydocs", source_of(store, model), run, tags(model))
    registry.set_alias("pydocs", "candidate", "1")
    with pytest.raises(ConfigInvalid, match="versions: 1; aliases: candidate = 1"):
        registry.version("pydocs", "champion")


@pytest.mark.parametrize("uri", ["models:/pydocs", "pydocs@champion", "models:/@champion", "runs:/x/y"])
def test_references_of_another_form_are_refused(uri: str) -> None:
    with pytest.raises(ConfigInvalid, match="models:/name@alias"):
        registry.resolve(uri)


def test_only_our_aliases_are_set() -> None:
    with pytest.raises(ConfigInvalid, match="candidate, champion, previous"):
        registry.set_alias("pydocs", "Champion", "1")


def test_source_and_tag_must_agree(store: Store, model: str, run: str) -> None:
    with pytest.raises(ConfigInvalid, match="must be the artefact"):
        registry.register("pydocs", source_of(store, model), run, tags("b" * 64))
    with pytest.raises(ConfigInvalid, match="may not hold"):
        registry.register("team/pydocs", source_of(store, model), run, tags(model))
    assert registry.models() == []


def test_local_path_is_the_verified_artefact(store: Store, model: str, run: str, tmp_path: Path) -> None:
    info = registry.register("pydocs", source_of(store, model), run, tags(model))
    path = registry.local_path(info, tmp_path / "cache")
    assert (path / "sub" / "model.safetensors").read_bytes() == b"weights"
    weights = path / "sub" / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"WEIGHTS")
    with pytest.raises(Infrastructure, match="altered"):
        registry.local_path(info, tmp_path / "cache")


def test_version_tags_can_be_added(store: Store, model: str, run: str) -> None:
    registry.register("pydocs", source_of(store, model), run, tags(model))
    registry.tag_version("pydocs", "1", {"perennial.decision": "promote by ada"})
    assert registry.version("pydocs", "1").tags["perennial.decision"] == "promote by ada"
