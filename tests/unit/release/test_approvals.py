"""Who approved: one person, or two different ones where the recipe says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks import cli
from tasks.recipe.failures import ConfigInvalid
from tasks.release.approvals import actors, people_of, required
from tasks.runner.release import decide
from tasks.runner.settings import settings
from tasks.tracking import ledger, registry


def test_a_name_counts_once_however_it_is_written() -> None:
    assert actors(["ada"]) == actors(["ada", " Ada "]) == "ada"
    assert actors(["ada", "ben"]) == "ada and ben"
    assert required({}) == 1
    assert required({"perennial.approvals": "2"}) == 2


@pytest.mark.parametrize("names", [[], [" "]])
def test_somebody_decides(names: list[str]) -> None:
    with pytest.raises(ConfigInvalid, match="a name and a reason"):
        actors(names)


@pytest.mark.parametrize("name", ["Research and Development", " ada and ben "])
def test_one_name_is_never_two_people(name: str) -> None:
    with pytest.raises(ConfigInvalid, match="reads as two people: give each their own --by"):
        actors([name])
    with pytest.raises(ConfigInvalid, match="reads as two people"):
        actors(["ben", name])
    assert people_of(actors(["Andy", "Sandra Land"])) == {"andy", "sandra land"}


def test_nobody_rejects_what_ran_out_of_time() -> None:
    assert actors(["nobody"]) == "nobody"


def test_two_people_are_in_the_ledger_and_one_alone_promotes_nothing(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    run.plan["release"]["approvals"] = 2
    monkeypatch.setenv("PERENNIAL_STORE", run.store.uri)
    made = run.register()
    assert registry.version("pydocs", made.version).tags["perennial.approvals"] == "2"

    def promote(*by: str) -> str:
        return decide(
            "promote", settings(), plan=None, model="pydocs", version="candidate", by=[*by], reason="good"
        ).words

    for alone in (["ada"], ["ada", "Ada "]):
        assert "approved by ada: good" in promote(*alone)
    with pytest.raises(ConfigInvalid, match="'ada and nobody' is none"):
        promote("ada", "nobody")
    assert ledger.standing(ledger.history(run.store, "pydocs")).champion is None
    assert "promoted by ada and ben: good" in promote("ada", "ben")
    actions = [(line.action, line.actor) for line in ledger.history(run.store, "pydocs")]
    assert actions == [("register", actions[0][1]), ("approve", "ada"), ("promote", "ada and ben")]


def test_the_command_ends_with_11_until_another_person_approved(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    run.plan["release"]["approvals"] = 2
    monkeypatch.setenv("PERENNIAL_STORE", run.store.uri)
    run.register()

    def promote(name: str) -> int:
        return cli.main(["promote", "--model=pydocs", "--version=candidate", f"--by={name}", "--reason=good"])

    assert [promote("ada"), promote("ada")] == [11, 11]
    assert "goes to production once another person approved it too" in capsys.readouterr().out
    assert registry.aliases("pydocs") == {"candidate": "1"}
    assert promote("ben") == 0
    assert "version 1 of 'pydocs' promoted by ben" in capsys.readouterr().out
    assert registry.aliases("pydocs") == {"champion": "1"}
