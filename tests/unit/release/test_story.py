"""What `models`, `show` and `history` tell, to people and to machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tasks import cli
from tasks.release.promote import promote, rollback
from tasks.tracking import ledger, registry


@pytest.fixture
def run(make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two versions: the first promoted, the second promoted and rolled back; the second run."""
    first = make_run()
    first.register()
    promote(first.store, "pydocs", "1", "ada", "good")
    second = make_run("run-2", weights="b")
    second.register()
    promote(first.store, "pydocs", "2", "ben", "better on news")
    rollback(first.store, "pydocs", "eve", "complaints")
    monkeypatch.setenv("PERENNIAL_STORE", first.store.uri)
    return second


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed; what it printed."""

    def tell(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    return tell


def test_models(run: Any, told: Callable[..., str]) -> None:
    assert "pydocs" in told("models")
    (found,) = json.loads(told("models", "--json"))
    assert (found["model"], found["champion"], found["semantic"], found["by"]) == (
        "pydocs",
        "1",
        "1.0.0",
        "eve",
    )
    assert (found["candidate"], found["previous"], found["problems"]) == (None, "2", [])
    assert [each["version"] for each in found["versions"]] == ["2", "1"]
    assert found["versions"][1]["aliases"] == ["champion"]
    assert found["versions"][0]["decision"] == "taken back by eve"


def test_show(run: Any, told: Callable[..., str]) -> None:
    text = told("show", "pydocs", "previous")
    for part in (run.candidate, "1.1.0", "run-2", "learned-the-news", "passed", "by ben: better on news"):
        assert part in text
    found = json.loads(told("show", "pydocs", "2", "--json"))
    assert found["digest"] == run.candidate
    assert found["aliases"] == ["previous"]
    assert found["data"] == {"news": run.plan["data"]["news"]["digest"]}
    assert found["steps"]["tuned.model"] == run.records["tuned"]["outputs"]["model"]["digest"]
    assert len(found["parents"]) == 2
    assert found["gates"] == {"learned-the-news": "passed"}
    assert found["card"] == registry.version("pydocs", "2").tags["perennial.card"]
    assert [line["action"] for line in found["decisions"]] == ["register", "promote", "rollback"]
    assert "tags" not in found


def test_history(run: Any, told: Callable[..., str]) -> None:
    text = told("history", "pydocs")
    for part in ("ada", "good", "ben", "better on news", "eve", "complaints"):
        assert part in text
    found = json.loads(told("history", "pydocs", "--json"))
    assert [(line["action"], line["from_version"], line["to_version"]) for line in found["lines"]] == [
        ("register", None, "1"),
        ("promote", None, "1"),
        ("register", "1", "2"),
        ("promote", "1", "2"),
        ("rollback", "2", "1"),
    ]
    assert (found["champion"], found["previous"], found["problems"]) == ("1", "2", [])
    promoted = found["lines"][3]
    assert promoted["evidence"] == run.records["report"]["outputs"]["report"]["digest"]


def test_who_was_champion_on_a_date(run: Any, told: Callable[..., str]) -> None:
    times = [line.time for line in ledger.history(run.store, "pydocs")]
    assert "at 2020-01-01: none" in told("history", "pydocs", "--at", "2020-01-01")
    then = told("history", "pydocs", "--at", times[3])
    assert f"version 2, put there {times[3]} by ben: better on news" in then
    found = json.loads(told("history", "pydocs", "--at", times[2], "--json"))
    assert (found["champion"], len(found["lines"])) == ("1", 3)


def test_an_edited_ledger_is_told_and_nothing_is_made_up(run: Any, told: Callable[..., str]) -> None:
    run.store.delete("ledger/pydocs/000002.json")
    (found,) = json.loads(told("models", "--json"))
    assert found["champion"] == "1"  # by MLflow's alias
    assert "tampered" in found["problems"][0]
    assert json.loads(told("show", "pydocs", "1", "--json"))["decisions"] == []
    assert cli.main(["history", "pydocs"]) == 3


def test_decisions_say_what_was_left_undone(run: Any, told: Callable[..., str]) -> None:
    registry.set_alias("pydocs", "champion", "2")
    text = told("promote", "--model", "pydocs", "--version", "2", "--by", "ada", "--reason", "after all")
    assert "an earlier call was cut short; completed: champion: 2 -> 1" in text
    assert "version 2 of 'pydocs' promoted by ada: after all\nchampion: 2, previous: 1" in text


def test_an_empty_registry_says_how_to_fill_it(
    store: Any, told: Callable[..., str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("PERENNIAL_STORE", store.uri)
    assert "perennial run RECIPE" in told("models")
    assert json.loads(told("models", "--json")) == []
