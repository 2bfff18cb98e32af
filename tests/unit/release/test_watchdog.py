"""What the watchdog sees, each on a store where just that is wrong."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.artefacts import Store
from tasks.recipe.models import Budget, Release
from tasks.recipe.plan import Plan, PlannedStep, Rate
from tasks.release.spending import Spent, StepSpending, write_spending
from tasks.runner.budget import set_limit
from tasks.runner.release import decide
from tasks.runner.settings import Settings, settings
from tasks.runner.watchdog import Finding, Limits, look
from tasks.tracking import registry
from tests.unit.runner.conftest import plan_of

NOW = datetime.now(UTC)
ROOMY = Limits(free_bytes=0)
TWO_HOURS = Budget(device_hours=2.0)


@pytest.fixture
def released(store: Store, make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A champion, promoted by ada."""
    monkeypatch.setenv("PERENNIAL_STORE", store.uri)
    made = make_run().register()
    by = ["ada"]
    decide("promote", settings(), plan=None, model="pydocs", version=made.version, by=by, reason="good")
    return settings()


def checks(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.subject) for each in findings]


def test_nothing_is_said_where_nothing_is_wrong(released: Settings) -> None:
    assert look(released, ROOMY) == []


def test_a_champion_that_was_altered(released: Settings, store: Store) -> None:
    champion = registry.version("pydocs", "champion")
    folder = store.local_path(f"artefacts/{champion.digest}/files")
    assert folder is not None
    file = next(path for path in folder.rglob("*") if path.is_file())
    file.chmod(0o644)
    file.write_text("something else")
    assert checks(look(released, ROOMY)) == [("champion", "pydocs 1")]


def test_a_champion_whose_tags_were_changed_in_mlflow(released: Settings) -> None:
    registry.tag_version("pydocs", "1", {"perennial.report": "0" * 64})
    (found,) = look(released, ROOMY)
    assert found.check == "champion"
    assert "is not what was signed" in found.words
    assert "rollback" in found.remedy


def test_a_ledger_that_was_edited(released: Settings, store: Store) -> None:
    line = json.loads(store.read("ledger/pydocs/000002.json"))
    path = store.local_path("ledger/pydocs/000002.json")
    assert path is not None
    path.chmod(0o644)
    path.write_text(json.dumps(line | {"actor": "eve"}))
    assert ("ledger", "pydocs") in checks(look(released, ROOMY))


def test_a_decision_that_nobody_takes(released: Settings, make_run: Callable[..., Any]) -> None:
    make_run("run-2", weights="b").register()
    assert look(released, ROOMY) == []
    (found,) = look(released, ROOMY, NOW + timedelta(hours=30))
    assert (found.check, found.subject) == ("approval", "pydocs 2")
    assert "waited for a decision for 30 hours" in found.words


def test_the_first_of_two_approvals_is_no_decision(released: Settings, make_run: Callable[..., Any]) -> None:
    run = make_run("run-2", weights="b")
    run.plan["release"]["approvals"] = 2
    made = run.register()
    decide("promote", released, plan=None, model="pydocs", version=made.version, by=["ada"], reason="good")
    (found,) = look(released, ROOMY, NOW + timedelta(hours=30))
    assert (found.check, found.subject) == ("approval", "pydocs 2")


def write_run(store: Store, run: str, hours: float, budget: Budget | None = TWO_HOURS, **files: Any) -> None:
    """A run whose files are so old; its plan has the steps a and b, and two device hours."""
    steps = [
        PlannedStep(
            name=name, stage="merge", method="work", options={}, seed=0, resources="cpu", inputs={},
            outputs={}, hands_on=False,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    plan = plan_of(run, steps).model_copy(
        update={"release": Release(candidate="b", report="a"), "budget": budget, "currency": "EUR"}
    )
    for number, (name, content) in enumerate({"plan": plan.model_dump(mode="json"), **files}.items()):
        key = f"runs/{run}/{name.replace('__', '/')}.json"
        store.write(key, json.dumps(content).encode())
        path = store.local_path(key)
        assert path is not None
        at = time.time() - 3600 * hours + number
        os.utime(path, (at, at))


def test_a_run_that_stopped_moving(released: Settings, store: Store) -> None:
    write_run(store, "stuck", 7, steps__a={"device_seconds": 1})
    write_run(store, "moving", 1, steps__a={"device_seconds": 1})
    write_run(store, "given-up", 24 * 20, steps__a={"device_seconds": 1})
    write_run(store, "failed", 7, steps__a={"device_seconds": 1}, failures__b={})
    write_run(store, "went-on", 7, failures__a={}, steps__a={"device_seconds": 1})
    write_run(store, "over", 7, steps__a={"device_seconds": 1}, release={})
    findings = look(released, ROOMY)
    assert checks(findings) == [("run", "stuck"), ("run", "went-on")]
    assert "1 of 2 steps done, next b" in findings[0].words


def spending(store: Store, run: str, seconds: float, cost: float | None) -> None:
    """What the step a of a run took."""
    spent = Spent(device_seconds=seconds, cost=cost)
    write_spending(
        store,
        StepSpending(
            run=run, step="a", fingerprint="f" * 64, resources="cpu", devices=1, attempts=1, state="ended",
            spent=spent, carried=Spent(), written=NOW.isoformat(),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "seconds", "cost", "said"),
    [
        (Budget(device_hours=2.0), 6000.0, None, "has used 1.67 of 2 device hours"),
        (Budget(device_hours=2.0), 5000.0, 9.0, None),
        (Budget(cost=10.0), 6000.0, 8.5, "has used 8.50 of 10 EUR"),
        (Budget(cost=10.0), 6000.0, 7.5, None),
        (Budget(device_hours=9.0, cost=10.0), 6000.0, 8.0, "has used 8.00 of 10 EUR"),
        (
            Budget(device_hours=2.0, cost=4.0),
            7000.0,
            4.0,
            "has used 1.94 of 2 device hours and 4.00 of 4 EUR",
        ),
    ],
)
def test_a_run_near_its_budget(
    budget: Budget, seconds: float, cost: float | None, said: str | None, released: Settings, store: Store
) -> None:
    write_run(store, "costly", 1, budget)
    spending(store, "costly", seconds, cost)
    found = look(released, ROOMY)
    assert [(each.check, each.subject, each.words) for each in found] == (
        [("budget", "costly", said)] if said else []
    )


def test_a_raised_budget_is_the_one_that_counts(released: Settings, store: Store) -> None:
    write_run(store, "costly", 1, Budget(cost=10.0))
    spending(store, "costly", 6000, 9.0)
    plan = Plan.from_bytes(store.read("runs/costly/plan.json"))
    priced = plan.model_copy(update={"rates": {"cpu": Rate(price=1.0, watts=None)}})
    set_limit(store, priced, Budget(cost=20.0), "ada", "it grew")
    assert look(released, ROOMY) == []
    set_limit(store, priced, Budget(cost=11.0), "ada", "it shrank")
    assert [each.words for each in look(released, ROOMY)] == ["has used 9.00 of 11 EUR"]


def test_a_disk_that_fills_up(released: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4_000_000_000))
    (found,) = look(released, Limits())
    assert found.check == "disk"
    assert "4.0 GB left" in found.words
