from __future__ import annotations

from typing import Any

import pytest

from tasks.release.costs import cost_tags, known_figures
from tasks.release.records import Output, PlanFacts, ReleaseRules, StepRecord


def step(name: str, kind: str, seconds: float, **more: Any) -> StepRecord:
    meta = {"bytes": 10_000_000, "parameters": 2_500_000} if kind == "model" else {}
    outputs = {kind: Output(digest=name * 4, kind=kind, meta=meta)}
    return StepRecord(
        fingerprint="f",
        step=name,
        stage="s",
        method="m",
        outputs=outputs,
        device_seconds=seconds,
        **more,
    )


def plan(**more: Any) -> PlanFacts:
    fields = {
        "run": "r",
        "recipe": "r",
        "model": "m",
        "intent": "i",
        "release": ReleaseRules(candidate="tuned", report="report"),
        "rates": {"cpu": {"price": 0.1}, "gpu": {"price": 3.0}},
        "steps": [{"name": "tuned", "resources": "gpu"}, {"name": "report", "resources": "cpu"}],
    }
    return PlanFacts.model_validate(fields | more)


@pytest.fixture
def records() -> dict[str, StepRecord]:
    return {
        "tuned": step("tuned", "model", 7200.0, cached=True),
        "report": step("report", "report", 1800.0, metrics={"latency_ms": 12.5}),
    }


def test_everything_on_record_is_known(records: dict[str, StepRecord]) -> None:
    found = {name: known.value for name, known in known_figures(plan(), records).items()}
    assert found == {
        "run.device_hours": 2.5,  # what a cached step took when it ran is part of it
        "run.cost": pytest.approx(2 * 3.0 + 0.5 * 0.1),
        "model.bytes": 10_000_000,
        "model.parameters": 2_500_000,
        "model.latency_ms": 12.5,
    }


def test_what_is_not_on_record_is_said(records: dict[str, StepRecord]) -> None:
    records["tuned"] = step("tuned", "model", 0.0)
    records["tuned"].outputs["model"].meta.clear()
    records["report"] = step("report", "report", 60.0)
    found = known_figures(plan(), records)
    assert {name: known.value for name, known in found.items()} == dict.fromkeys(found)
    assert "tuned have no device seconds" in found["run.device_hours"].why
    assert "tuned have no device seconds" in found["run.cost"].why
    assert "says nothing of its bytes" in found["model.bytes"].why
    assert "'report' has measured none" in found["model.latency_ms"].why


def test_a_machine_without_a_price_has_no_cost(records: dict[str, StepRecord]) -> None:
    found = known_figures(plan(steps=[{"name": "tuned", "resources": "large"}]), records)
    assert found["run.cost"].value is None
    assert "no price for the machines of tuned, report" in found["run.cost"].why
    assert "perennial.cost" not in cost_tags(plan(steps=[{"name": "tuned", "resources": "large"}]), records)
    assert found["run.device_hours"].value == 2.5


def test_a_versions_tags_hold_what_making_it_took(records: dict[str, StepRecord]) -> None:
    rates = {"cpu": {"price": 1.0, "watts": 100.0}, "gpu": {"price": 4.0, "watts": 1000.0}}
    told = cost_tags(plan(rates=rates, currency="EUR"), records)
    assert told == {
        "perennial.device_hours": "2.5",
        "perennial.cost": "8.5 EUR",
        "perennial.energy_kwh": "2.05",
    }
    # What the record says wins over the rates of a later plan.
    records["tuned"] = step("tuned", "model", 7200.0, cached=True, cost=1.0, energy_kwh=0.5)
    assert cost_tags(plan(rates=rates, currency="EUR"), records)["perennial.cost"] == "1.5 EUR"
    assert set(cost_tags(plan(rates={}), {"report": records["report"]})) == {"perennial.device_hours"}


@pytest.mark.parametrize(
    ("resources", "cost", "wanted"),
    [
        ("", None, 2 * 3.0 + 0.5 * 0.1),
        ("large", None, 2 * 7.0 + 0.5 * 0.1),  # where it really ran, not where the plan of today would run it
        ("", 1.25, 1.25 + 0.5 * 0.1),  # at the price of the day it ran
    ],
)
def test_a_run_has_one_cost_for_its_gate_and_its_versions_tag(
    resources: str, cost: float | None, wanted: float, records: dict[str, StepRecord]
) -> None:
    records["tuned"] = step("tuned", "model", 7200.0, cached=True, resources=resources, cost=cost)
    rates = {"cpu": {"price": 0.1}, "gpu": {"price": 3.0}, "large": {"price": 7.0}}
    asked = plan(rates=rates, currency="EUR")
    assert known_figures(asked, records)["run.cost"].value == pytest.approx(wanted)
    assert cost_tags(asked, records)["perennial.cost"] == f"{wanted:.6g} EUR"
