"""Who approved: one person, or two different ones where the recipe says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.recipe.failures import ConfigInvalid
from tasks.release.approvals import actors, required
from tasks.runner.release import decide
from tasks.runner.settings import settings
from tasks.tracking import ledger, registry


def test_one_name_is_enough_unless_two_are_asked_for() -> None:
    assert actors(["ada"]) == "ada"
    assert actors(["ada", "ben"], 2) == "ada and ben"
    assert required({}) == 1
    assert required({"perennial.approvals": "2"}) == 2


@pytest.mark.parametrize("names", [["ada"], ["ada", "Ada "], ["ada", "nobody"], []])
def test_one_person_is_not_two(names: list[str]) -> None:
    with pytest.raises(ConfigInvalid, match="2 different people"):
        actors(names, 2)


def test_nobody_rejects_what_ran_out_of_time() -> None:
    assert actors(["nobody"]) == "nobody"


def test_two_people_are_in_the_ledger_and_one_alone_is_refused(
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
        )

    with pytest.raises(ConfigInvalid, match="2 different people"):
        promote("ada")
    assert ledger.standing(ledger.history(run.store, "pydocs")).champion is None
    assert "promoted by ada and ben: good" in promote("ada", "ben")
    assert ledger.history(run.store, "pydocs")[-1].actor == "ada and ben"
