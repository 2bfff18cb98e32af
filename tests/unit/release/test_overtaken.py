"""A candidate that was judged against another champion than the one of now is never promoted unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tasks.artefacts import Store
from tasks.recipe.failures import Failure, GatesFailed
from tasks.release.overtaken import Judged, between, judged_against, overtaken
from tasks.release.promote import promote, rollback
from tasks.tracking import ledger, registry

MakeRun = Callable[..., Any]


@pytest.fixture
def registered(make_run: MakeRun, store: Store) -> Store:
    """Version 1 in production; 2 and 3 judged against it."""
    make_run("run-1").register()
    promote(store, "pydocs", "1", "ada", "the first")
    make_run("run-2", weights="b", intent="i2").register()
    make_run("run-3", weights="c", intent="i3").register()
    return store


def test_a_manual_run_does_not_promote_over_a_newer_champion_unnoticed(registered: Store) -> None:
    assert between(registered, registry.version("pydocs", "2")) == ""
    promote(registered, "pydocs", "3", "ben", "better")
    assert between(registered, registry.version("pydocs", "3")) == ""
    assert "now version 3 is" in between(registered, registry.version("pydocs", "2"))  # the approval shows it
    with pytest.raises(GatesFailed) as refused:
        promote(registered, "pydocs", "2", "policy", "all gates passed")
    assert refused.value.failure is Failure.GATES_FAILED
    words = str(refused.value)
    assert "judged when version 1 was in production, and now version 3 is" in words
    assert "version 3 (promote by ben on" in words
    assert ": better)" in words
    assert "--over 3" in words
    assert registry.aliases("pydocs")["champion"] == "3"
    assert [line.action for line in ledger.history(registered, "pydocs")].count("promote") == 2


def test_who_says_which_version_goes_may_replace_it(registered: Store) -> None:
    promote(registered, "pydocs", "3", "ben", "better")
    with pytest.raises(GatesFailed):
        promote(registered, "pydocs", "2", "ada", "I know", over="1")
    done = promote(registered, "pydocs", "2", "ada", "I know", over="3")
    assert (done.champion, done.previous) == ("2", "3")
    assert promote(registered, "pydocs", "2", "ada", "I know", over="3").repeated


def test_after_a_rollback_the_evidence_holds_again(registered: Store) -> None:
    promote(registered, "pydocs", "3", "ben", "better")
    rollback(registered, "pydocs", "eve", "complaints")
    assert promote(registered, "pydocs", "2", "ada", "then this").champion == "2"


def test_the_plan_says_what_was_compared_though_another_was_promoted_before_the_verdict(
    registered: Store,
) -> None:
    registered.write("runs/run-2/plan.json", json.dumps({"bindings": {"champion": None}}).encode())
    assert judged_against(registered, registry.version("pydocs", "2")) == Judged(None)
    lines = ledger.history(registered, "pydocs")
    words = overtaken(Judged(None), "1", registry.version("pydocs", "1").digest, lines)
    assert words.startswith("it was judged when there was nothing in production, and now version 1 is; since")
    assert "version 1 (promote by ada on" in words


def test_what_is_not_known_stops_nobody(registered: Store) -> None:
    registered.delete("runs/run-2/release.json")
    assert judged_against(registered, registry.version("pydocs", "2")) is None
    assert overtaken(None, "3", "d", []) == ""
    assert overtaken(Judged("d"), None, None, []) == ""
