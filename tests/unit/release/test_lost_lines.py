"""A ledger that was cut off, or rewritten with right digests, is followed by nothing, and the proof stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks import cli
from tasks.recipe.failures import DataInvalid
from tasks.release.aliases import reconcile
from tasks.release.audit import audit
from tasks.release.delete import delete
from tasks.release.promote import promote, reject, rollback
from tasks.tracking import ledger, registry


@pytest.fixture
def three(make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store of three versions: the previous one, one that was rejected, the champion."""
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "1", "ada", "good")
    make_run("run-2", weights="b").register()
    reject(first.store, "pydocs", "2", "ada", "worse")
    make_run("run-3", weights="c").register()
    promote(first.store, "pydocs", "3", "ada", "better")
    monkeypatch.setenv("PERENNIAL_STORE", first.store.uri)
    return first.store


def key(number: int) -> str:
    return f"ledger/pydocs/{number:06d}.json"


def cut(store: Any, lines: list[ledger.Line]) -> None:
    store.delete(key(len(lines)))


def rewrite(store: Any, lines: list[ledger.Line]) -> None:
    """Every line by another person, with right digests."""
    previous = ledger.FIRST
    for line in lines:
        fields = line.model_dump(exclude={"hash"}) | {"previous_hash": previous, "actor": "mallory"}
        previous = ledger._hash(fields)
        store.delete(key(line.seq))
        store.write(key(line.seq), ledger._canonical({**fields, "hash": previous}))


def take_all(store: Any, lines: list[ledger.Line]) -> None:
    for line in lines:
        store.delete(key(line.seq))


def in_mlflow() -> tuple[dict[str, str], list[dict[str, str]]]:
    return registry.aliases("pydocs"), [dict(each.tags) for each in registry.versions("pydocs")]


@pytest.mark.parametrize("damage", [cut, rewrite, take_all])
def test_nothing_follows_a_ledger_that_lost_a_line(
    three: Any, make_run: Callable[..., Any], damage: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(three, ledger.history(three, "pydocs"))
    left, before = ledger.history(three, "pydocs"), in_mlflow()
    decisions: dict[str, Callable[[], object]] = {
        "promote": lambda: promote(three, "pydocs", "2", "ada", "after all", over="1"),
        "reject": lambda: reject(three, "pydocs", "2", "ada", "worse still"),
        "roll back": lambda: rollback(three, "pydocs", "ada", "worse"),
        "delete": lambda: delete(three, "pydocs", "2", "ada", "tidying up"),
        "register": lambda: make_run("run-4", weights="d").register(),
    }
    for decide in decisions.values():
        with pytest.raises(DataInvalid, match=r"cut off or rewritten; restore it.*delete the tag perennial"):
            decide()
    assert cli.main(["audit", "pydocs", "--repair"]) == 3
    assert "cut off or rewritten" in capsys.readouterr().err
    assert ledger.history(three, "pydocs") == left
    assert in_mlflow() == before
    assert "cut off or rewritten" in audit(three, "pydocs").findings[0].problem


def test_a_ledger_without_a_backup_is_taken_as_it_is_by_hand(three: Any) -> None:
    from tasks.tracking.server import call

    cut(three, ledger.history(three, "pydocs"))
    call("untag", lambda client: client.delete_model_version_tag("pydocs", "3", "perennial.ledger"))
    assert reconcile(three, "pydocs")
    assert registry.aliases("pydocs") == {"champion": "1", "candidate": "3"}
    assert promote(three, "pydocs", "3", "ada", "once more").champion == "3"
    assert audit(three, "pydocs").findings == []


def test_a_line_that_is_written_meanwhile_is_no_lost_one(three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    history, versions = ledger.history, registry.versions
    late = [lambda: rollback(three, "pydocs", "ben", "worse")]

    def then_another(model: str) -> list[registry.VersionInfo]:
        if late:
            late.pop()()
        return versions(model)

    monkeypatch.setattr(registry, "versions", then_another)
    reconcile(three, "pydocs")
    assert registry.aliases("pydocs") == {"champion": "1", "previous": "3"}
    assert history(three, "pydocs")[-1].action == "rollback"
