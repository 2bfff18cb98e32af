"""From a version one can walk to everything that it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.artefacts import load_manifest
from tasks.release.walk import walk
from tasks.tracking import registry


def test_a_version_leads_to_everything(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.register()
    places = list(walk(run.store, registry.version("pydocs", "1")))
    assert [place.problem for place in places if place.problem] == []
    assert sorted((place.part, place.name) for place in places) == [
        ("card", "card"),
        ("data", "news"),
        ("parents", "base"),
        ("parents", "tuned"),
        ("recipe", "plan"),
        ("report", "report"),
        ("run", "mlflow"),
        ("run", "steps"),
        ("signature", "signature"),
        ("weights", "model"),
    ]
    held = {stat.key for stat in run.store.list("")}
    for place in places:
        if place.name != "mlflow":
            key = place.where.removeprefix(f"{run.store.uri}/")
            assert any(each.startswith(key) for each in held), place
    for place in places:
        if place.part in ("weights", "parents"):
            assert load_manifest(run.store, place.where.rpartition("/")[2]).kind == "model"


def test_every_artefact_is_read_once_by_an_audit_and_told_apart(make_run: Callable[..., Any]) -> None:
    run = make_run()
    run.register()
    asked: list[str] = []

    def damage(digest: str) -> list[str]:
        asked.append(digest)
        return ["object missing: x"] if digest == run.records["tuned"]["outputs"]["model"]["digest"] else []

    found = [place for place in walk(run.store, registry.version("pydocs", "1"), damage) if place.problem]
    assert [(place.part, place.name) for place in found] == [("parents", "tuned")]
    assert len(asked) == len(set(asked)) == 5
