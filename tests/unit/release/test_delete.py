"""A version that an alias, the ledger or another version needs is not deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks import cli
from tasks.recipe.failures import ConfigInvalid
from tasks.release import delete as deletion
from tasks.release.delete import delete
from tasks.release.promote import promote, reject
from tasks.tracking import ledger, registry


@pytest.fixture
def three(make_run: Callable[..., Any]) -> Any:
    """Three versions: the champion, one that was rejected, the candidate."""
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "1", "ada", "good")
    make_run("run-2", weights="b").register()
    reject(first.store, "pydocs", "2", "ada", "worse")
    make_run("run-3", weights="c").register()
    return first.store


def test_what_nothing_needs_is_deleted_and_on_record(three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_STORE", three.uri)
    assert cli.main(["delete", "pydocs", "2", "--by", "ada", "--reason", "tidying up"]) == 0
    assert [each.version for each in registry.versions("pydocs")] == ["1", "3"]
    line = ledger.history(three, "pydocs")[-1]
    assert (line.action, line.to_version, line.actor, line.reason) == ("delete", "2", "ada", "tidying up")
    assert registry.aliases("pydocs") == {"champion": "1", "candidate": "3"}


@pytest.mark.parametrize(
    ("version", "told"),
    [("1", "it is the champion; it was in production from"), ("3", "it is the candidate .*perennial reject")],
)
def test_what_an_alias_or_the_ledger_needs_stays(three: Any, version: str, told: str) -> None:
    with pytest.raises(ConfigInvalid, match=told):
        delete(three, "pydocs", version, "ada", "tidying up")
    assert len(registry.versions("pydocs")) == 3
    assert ledger.history(three, "pydocs")[-1].action == "register"


def test_a_former_champion_stays(three: Any) -> None:
    promote(three, "pydocs", "3", "ada", "better")
    promote(three, "pydocs", "2", "ada", "better still", over="3")
    assert registry.aliases("pydocs") == {"champion": "2", "previous": "3"}
    with pytest.raises(ConfigInvalid, match=r"stays: it was in production from .* \(line 2 of the ledger\)"):
        delete(three, "pydocs", "1", "ada", "tidying up")


def test_what_another_version_was_made_from_stays(make_run: Callable[..., Any], three: Any) -> None:
    parent = registry.version("pydocs", "2")
    child = make_run("run-4", weights="d")
    child.plan["bindings"] = {"champion": {"digest": parent.digest, "kind": "model"}}
    child.records["merged"]["inputs"]["models"].append(parent.digest)
    child.register()
    with pytest.raises(ConfigInvalid, match="version 4 was made from it"):
        delete(three, "pydocs", "2", "ada", "tidying up")


def test_a_name_and_a_reason_are_needed(three: Any) -> None:
    with pytest.raises(ConfigInvalid, match="--by WHO --reason TEXT"):
        delete(three, "pydocs", "2", "ada", " ")


def test_a_deletion_cut_short_is_completed_by_the_next_call(
    three: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as cut:
        cut.setattr(registry, "delete_version", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            delete(three, "pydocs", "2", "ada", "tidying up")
    assert len(registry.versions("pydocs")) == 3
    done = promote(three, "pydocs", "3", "ada", "better")
    assert done.repairs == ["version 2: deleted, as the ledger says"]
    assert [each.version for each in registry.versions("pydocs")] == ["1", "3"]
    assert deletion.made_from(registry.version("pydocs", "3"))
