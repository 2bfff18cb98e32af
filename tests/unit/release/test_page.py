"""What the page of a model is told: versions, gates, history, sizes, and what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tasks.artefacts import Store
from tasks.recipe.failures import ConfigInvalid
from tasks.runner.page import model_page, models_page, report_page
from tasks.runner.release import decide
from tasks.runner.settings import Settings, settings
from tasks.tracking import registry


@pytest.fixture
def two(store: Store, make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A champion and a candidate."""
    monkeypatch.setenv("PERENNIAL_STORE", store.uri)
    made = make_run().register()
    by = ["ada"]
    decide("promote", settings(), plan=None, model="pydocs", version=made.version, by=by, reason="good")
    make_run("run-2", weights="b", relative=-0.3).register()
    return settings()


def test_versions_come_newest_first_with_their_gates(two: Settings) -> None:
    found = model_page(two, "pydocs")
    assert (found["champion"], found["candidate"], found["previous"]) == ("1", "2", None)
    newest, first = found["versions"]
    assert (newest["version"], newest["semantic"], newest["aliases"]) == ("2", "1.1.0", ["candidate"])
    (gate,) = newest["gates"]
    assert (gate["gate"], gate["value"], gate["verdict"]) == ("learned-the-news", -0.3, "passed")
    assert first["aliases"] == ["champion"]
    assert first["registered"] < newest["registered"]
    assert [line["action"] for line in found["history"]] == ["register", "promote", "register"]
    assert found["history"][1]["actor"] == "ada"
    assert found["bytes"] == newest["bytes"] + first["bytes"] > 0
    assert found["problems"] == []
    assert found["mlflow"] == ""  # a database has no pages


def test_costs_are_the_versions_own_tags(two: Settings) -> None:
    registry.tag_version("pydocs", "2", {"perennial.device_hours": "1.5", "perennial.cost": "4.25 EUR"})
    newest = model_page(two, "pydocs")["versions"][0]
    told = [newest[name] for name in ("device_hours", "cost", "currency", "energy_kwh")]
    assert told == [1.5, 4.25, "EUR", None]


def test_a_model_that_is_gone_is_a_problem_and_no_error(two: Settings, store: Store) -> None:
    digest = registry.version("pydocs", "1").digest
    folder = store.local_path(f"artefacts/{digest}")
    assert folder is not None
    shutil.rmtree(folder)
    found = model_page(two, "pydocs")
    assert found["versions"][1]["bytes"] is None
    assert found["problems"] == [f"version 1: its model {digest[:12]} is not in the store"]


def test_a_broken_ledger_is_shown_on_the_page(two: Settings, store: Store) -> None:
    path = store.local_path("ledger/pydocs/000002.json")
    assert path is not None
    path.unlink()
    found = model_page(two, "pydocs")
    assert "tampered" in found["problems"][0]
    assert found["history"] == []


def test_an_unknown_model_is_refused(two: Settings) -> None:
    with pytest.raises(ConfigInvalid, match="no registered model 'pydoc'"):
        model_page(two, "pydoc")


def test_all_models_in_short(two: Settings) -> None:
    (only,) = models_page(two)["models"]
    assert only == {"model": "pydocs", "champion": "1", "candidate": "2", "previous": None}


def test_a_report_is_found_by_its_run_and_nothing_else_is(two: Settings) -> None:
    assert b"allow this release" in report_page(two, "run-2")
    for run in ("run-3", "../run-2", "."):
        with pytest.raises(ConfigInvalid, match="has no report"):
            report_page(two, run)
