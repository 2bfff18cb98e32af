"""What a run and its candidate cost: the figures that `budget` gates limit, as far as they are on record."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.release.gates import Known
from tasks.release.records import PlanFacts, StepRecord
from tasks.release.spending import Spent, recorded, total

LATENCY = "latency_ms"
"""The metric of the report step with the time for one new token (its option `latency_tokens`)."""


def known_figures(plan: PlanFacts, records: Mapping[str, StepRecord]) -> dict[str, Known]:
    """Every figure of the run, or why it is not known.

    A cached step counts with what it took when it ran: a candidate is not cheaper for being judged twice.
    """
    candidate = records[plan.release.candidate.partition(".")[0]]
    meta = candidate.output(plan.release.candidate, "model").meta
    return {
        "run.device_hours": _hours(records),
        "run.cost": _cost(plan, records),
        **{f"model.{fact}": _fact(meta.get(fact), fact) for fact in ("bytes", "parameters")},
        "model.latency_ms": _latency(plan, records),
    }


def hours(record: StepRecord) -> float:
    """Hours of machines that a step took, all attempts and machines together."""
    return record.device_seconds / 3600


def _unknown(records: Mapping[str, StepRecord]) -> list[str]:
    return [name for name, record in records.items() if record.device_seconds <= 0]


def _hours(records: Mapping[str, StepRecord]) -> Known:
    missing = _unknown(records)
    if missing:
        return Known(None, f"the records of {', '.join(missing)} have no device seconds")
    return Known(sum(hours(record) for record in records.values()))


def _cost(plan: PlanFacts, records: Mapping[str, StepRecord]) -> Known:
    if _hours(records).value is None:
        return _hours(records)
    unpriced = [name for name, record in records.items() if cost_of(record, plan).cost is None]
    if unpriced:
        return Known(None, f"the plan has no price for the machines of {', '.join(unpriced)}")
    return Known(total(cost_of(record, plan) for record in records.values()).cost)


def _fact(value: object, fact: str) -> Known:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Known(float(value))
    return Known(None, f"the candidate's manifest says nothing of its {fact}")


def _latency(plan: PlanFacts, records: Mapping[str, StepRecord]) -> Known:
    report = records[plan.release.report.partition(".")[0]]
    if LATENCY in report.metrics:
        return Known(report.metrics[LATENCY])
    return Known(None, f"step '{report.step}' has measured none: set its option latency_tokens")


def cost_of(record: StepRecord, plan: PlanFacts) -> Spent:
    """What a step took, in the prices of the plan."""
    machines = {step.name: step.resources for step in plan.steps}
    rate = plan.rates.get(record.resources or machines.get(record.step, ""))
    return recorded(record.device_seconds, record.cost, record.energy_kwh, rate)


def cost_tags(plan: PlanFacts, records: Mapping[str, StepRecord]) -> dict[str, str]:
    """Tags of a version: what making it took, cached steps with what they took when they ran.

    A figure that is not known of every step is left out.
    """
    spent = total(cost_of(record, plan) for record in records.values())
    found = {"perennial.device_hours": f"{spent.device_hours:.6g}"}
    if spent.cost is not None:
        found["perennial.cost"] = f"{spent.cost:.6g} {plan.currency}".strip()
    if spent.energy_kwh is not None:
        found["perennial.energy_kwh"] = f"{spent.energy_kwh:.6g}"
    return found
