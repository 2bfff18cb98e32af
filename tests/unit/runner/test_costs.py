"""What `perennial costs` tells: each second once, whoever began the work, and in the plan's own prices."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.artefacts import Store
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import Budget
from tasks.recipe.plan import Plan, PlannedStep, Rate
from tasks.release.spending import Spent, StepSpending, spent_at, write_spending
from tasks.runner import costs
from tasks.runner.records import StepRecord, latest_key, run_key, write_record
from tasks.runner.settings import Settings
from tasks.tracking.registry import VersionInfo
from tests.unit.runner.conftest import plan_of

RATES = {"cpu": Rate(price=2.0, watts=100.0), "gpu": Rate(price=10.0, watts=None)}


def planned(name: str, resources: str = "cpu") -> PlannedStep:
    return PlannedStep(
        name=name, stage="sft", method="completion", options={}, seed=0, resources=resources, inputs={},
        outputs={}, hands_on=False,
    )  # fmt: skip


def freeze(store: Store, run: str, *steps: PlannedStep, **more: Any) -> Plan:
    update = {"rates": RATES, "currency": "EUR", **more}
    plan = plan_of(run, list(steps)).model_copy(update=update)
    store.write(f"runs/{run}/plan.json", plan.to_bytes())
    return plan


def record(store: Store, run: str, step: str, hours: float, **more: Any) -> StepRecord:
    fields = {
        "fingerprint": "f" * 64, "step": step, "stage": "sft", "method": "completion", "options": {},
        "inputs": {}, "ingredients": {}, "outputs": {}, "metrics": {}, "figure": "", "reasons": [],
        "run": run,
        "started": "", "finished": "", "device_seconds": hours * 3600, "resources": "cpu",
    }  # fmt: skip
    made = StepRecord.model_validate({**fields, **more})
    write_record(store, run_key(run, step), made)
    return made


def spent(
    store: Store, run: str, step: str, hours: float, carried: float = 0.0, resources: str = "cpu"
) -> None:
    write_spending(store, StepSpending(
        run=run, step=step, fingerprint=f"{step:f<64}",
        resources=resources, devices=1, attempts=2, state="ended",
        spent=spent_at(RATES[resources], hours * 3600), carried=spent_at(RATES[resources], carried * 3600),
        written="2026-01-01T00:00:00+00:00",
    ))  # fmt: skip


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for MLflow: version 1 of run two, in production."""
    one = VersionInfo("m", "1", "d", "", "1.0.0", "", {"perennial.run": "two"})
    monkeypatch.setattr("tasks.tracking.registry.versions", lambda _: [one])
    monkeypatch.setattr("tasks.tracking.registry.aliases", lambda _: {"champion": "1"})


@pytest.fixture
def two_runs(store: Store) -> None:
    """Run one was stopped in `tuned` after half an hour; run two went on from there for another."""
    freeze(store, "one", planned("base"), planned("tuned"), budget=Budget(device_hours=1.5, cost=None))
    record(store, "one", "base", 1.0)
    spent(store, "one", "base", 1.0)
    spent(store, "one", "tuned", 0.5)
    freeze(store, "two", planned("base"), planned("tuned"))
    record(store, "one", "base", 1.0)
    write_record(store, run_key("two", "base"), record(store, "one", "base", 1.0, cached=False).model_copy(
        update={"cached": True}))  # fmt: skip
    record(store, "two", "tuned", 1.0, attempts=2)
    spent(store, "two", "tuned", 1.0, carried=0.5)


@pytest.mark.usefixtures("versions", "two_runs")
def test_every_second_counts_once_for_a_model_and_whole_for_a_version(settings: Settings) -> None:
    model = costs.costs(settings, "m")
    assert [(run["run"], run["device_hours"]) for run in model["runs"]] == [("one", 1.5), ("two", 0.5)]
    assert (model["device_hours"], model["cost"], model["currency"]) == (2.0, 4.0, "EUR")
    assert model["energy_kwh"] == pytest.approx(0.2)
    [version] = model["versions"]
    assert (version["aliases"], version["device_hours"], version["cost"]) == (["champion"], 2.0, 4.0)
    everything = costs.costs(settings, None)["models"]
    assert [(each["model"], each["runs"], each["versions"]) for each in everything] == [("m", 2, 1)]


@pytest.mark.usefixtures("versions", "two_runs")
def test_a_run_says_what_became_of_each_step(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = costs.costs(settings, "one"), costs.costs(settings, "two")
    assert [(each["step"], each["state"]) for each in one["steps"]] == [
        ("base", "done"),
        ("tuned", "stopped"),
    ]
    assert (one["budget"]["device_hours"], one["counted"]["device_hours"]) == (1.5, 1.5)
    assert [(each["step"], each["state"], each["made_by"]) for each in two["steps"]] == [
        ("base", "cached", "one"),
        ("tuned", "done", "two"),
    ]
    assert two["steps"][1]["carried"]["device_hours"] == 0.5
    assert two["steps"][1]["attempts"] == 2
    costs.print_costs(settings, "one", as_json=False)
    said = capsys.readouterr().out
    assert "1.5 of 1.5 device hours" in said
    assert "in all: 1.5 device hours, 3 EUR, about 0.15 kWh" in said
    costs.print_costs(settings, "two", as_json=True)
    assert json.loads(capsys.readouterr().out) == two
    for name in ("m", None):
        costs.print_costs(settings, name, as_json=False)
    assert "champion" in capsys.readouterr().out


@pytest.mark.usefixtures("versions")
def test_what_is_not_known_is_not_made_up(store: Store, settings: Settings) -> None:
    freeze(store, "two", planned("tuned", "gpu"))
    spent(store, "two", "tuned", 2.0, resources="gpu")
    record(store, "two", "tuned", 2.0, resources="gpu")
    found = costs.costs(settings, "two")
    assert (found["cost"], found["energy_kwh"]) == (20.0, None)
    freeze(store, "other", planned("tuned"), currency="USD")
    model = costs.costs(settings, "m")
    assert (model["device_hours"], model["cost"], model["currency"]) == (2.0, None, "EUR and USD")
    with pytest.raises(ConfigInvalid, match="models with runs are: m"):
        costs.costs(settings, "n")


@pytest.mark.usefixtures("versions")
def test_a_run_from_before_this_was_written_down_counts_by_its_records(
    store: Store, settings: Settings
) -> None:
    freeze(store, "two", planned("tuned"), rates={}, currency="")
    record(store, "two", "tuned", 3.0, resources="")
    found = costs.costs(settings, "two")
    assert found["device_hours"] == 3.0
    assert found["cost"] == pytest.approx(3.0 * 0.2)  # by today's table


def test_the_preview_tells_what_it_took_last_time(store: Store) -> None:
    class Seen:
        cached = False
        estimate = None

        def __init__(self, step: PlannedStep) -> None:
            self.step = step

    plan = freeze(store, "two", planned("tuned"), planned("base"), budget=Budget(cost=3.0))
    write_record(store, latest_key("r", "tuned"), record(store, "one", "tuned", 2.0))
    seen: Any = [Seen(step) for step in plan.steps]
    words = costs.expectation(plan, seen, store)
    assert "2 device hours, 4 EUR" in words
    assert "what base will take" in words
    assert words.endswith("budget: 3 EUR")
    assert Spent().device_hours == 0
