"""What people read of a release in the approval: the verdicts, the figures, what changed and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.release.gates import GateResult, figure
from tasks.release.records import Delta, MeasuredSet, Report, StepRecord, Value

SIGNS = {"passed": "✓", "failed": "✗", "undecided": "?"}
"""What stands before a verdict, for whoever sees no colours."""


def summary(
    headline: str,
    report: Report,
    gates: Sequence[GateResult],
    records: Iterable[StepRecord],
    notes: Sequence[str],
) -> str:
    """The markdown of the approval form: verdict, table of sets, gates, what changed.

    Args:
        headline: One line, e.g. "pydocs 1.1.0 (version 3) waits for a decision".
        report: The evidence.
        gates: The verdicts.
        records: The run's step records, in order.
        notes: Further facts, one line each.
    """
    lines = [f"# {headline}", "", *(f"- {note}" for note in notes), ""]
    lines += set_table(report)
    lines += ["", "95 % intervals in brackets (paired bootstrap).", "", "## Gates", ""]
    lines += [f"- {SIGNS[gate.verdict]} {gate.text}" for gate in gates] or ["The recipe has no gates."]
    lines += ["", "## What changed and why", ""]
    lines += [f"- **{step}**: {reason}" for step, reason in changes(records)]
    return "\n".join(lines) + "\n"


def set_table(report: Report) -> list[str]:
    """Every measured set with the candidate's figure and its differences, as a table."""
    return [
        "| set | measure | candidate | against the base | against the champion |",
        "|---|---|---|---|---|",
        *(_row(each) for each in report.sets),
    ]


def changes(records: Iterable[StepRecord]) -> list[tuple[str, str]]:
    """Each step that ran with its reasons, and one line that counts those that did not have to."""
    every = list(records)
    found = [(each.step, "; ".join(each.reasons) or "ran") for each in every if not each.cached]
    cached = [each.step for each in every if each.cached]
    if cached:
        found.append((f"{len(cached)} of {len(every)} steps", f"unchanged ({', '.join(cached)})"))
    return found


def _row(each: MeasuredSet) -> str:
    cells = [
        each.name,
        f"{each.measure.replace('_', ' ')} ({each.better} is better, {each.items} items)",
        _value(each.values.get("model")),
        _delta(each.against.get("baseline")),
        _delta(each.against.get("champion")),
    ]
    return f"| {' | '.join(cells)} |"


def _value(value: Value | None) -> str:
    if value is None:
        return "-"
    return figure(value.value, False) + _interval(value.low, value.high, False)


def _delta(delta: Delta | None) -> str:
    if delta is None:
        return "-"
    text = f"{delta.difference:+.4g}{_interval(delta.low, delta.high, False)}"
    return text if delta.relative is None else f"{text}, {figure(delta.relative, True)}"


def _interval(low: float | None, high: float | None, percent: bool) -> str:
    return "" if low is None or high is None else f" [{figure(low, percent)}, {figure(high, percent)}]"
