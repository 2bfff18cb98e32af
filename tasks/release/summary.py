"""What people read of a release in the approval: the verdicts, the figures, what changed and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.recipe.gate_sets.expand import RUN_FIGURES
from tasks.release.gates import GateResult, figure, rule_words, told
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
    """The markdown of the approval form: the gates, what got worse, every difference, what changed and why.

    Args:
        headline: One line, e.g. "pydocs 1.1.0 (version 3) waits for a decision".
        report: The evidence.
        gates: The verdicts.
        records: The run's step records, in order.
        notes: Further facts, one line each.
    """
    lines = [f"# {headline}", "", *(f"- {note}" for note in notes), ""]
    lines += [f"## {counts(gates)}", "", *(gate_table(gates) if gates else []), ""]
    lines += ["## Regressions", "", *regressions(report), "", "## Differences", "", *set_table(report), ""]
    lines += ["95 % intervals in brackets (paired bootstrap).", "", "## What changed and why", ""]
    lines += [f"- **{step}**: {reason}" for step, reason in changes(records)]
    return "\n".join(lines) + "\n"


def counts(gates: Sequence[GateResult]) -> str:
    """How many gates there are of each verdict, in a line."""
    if not gates:
        return "The recipe has no gates"
    counted = [(verdict, sum(gate.verdict == verdict for gate in gates)) for verdict in SIGNS]
    return f"Gates: {', '.join(f'{count} {verdict}' for verdict, count in counted if count)}"


def set_table(report: Report) -> list[str]:
    """Every measured set with the candidate's figure and its differences, as a table."""
    return [
        "| set | measure | candidate | against the base | against the champion |",
        "|---|---|---|---|---|",
        *(_row(each) for each in report.sets),
    ]


def gate_table(gates: Sequence[GateResult]) -> list[str]:
    """The gates as a table, those that did not pass first, then those that may stop the release."""
    lines = ["| | gate | found | allowed | items | why |", "|---|---|---|---|---|---|"]
    for gate in sorted(gates, key=lambda gate: (gate.passed, gate.severity != "stop")):
        cells = [
            f"{SIGNS[gate.verdict]} {gate.verdict}{'' if gate.severity == 'stop' else ' (only warns)'}",
            f"**{gate.gate}** ({gate.measure})",
            _found(gate),
            f"{rule_words(gate.sign, strict=gate.strict)} {_told(gate, gate.threshold)}",
            f"{gate.items:,}" if gate.items is not None else "-",
            gate.reason.strip() or gate.text,
        ]
        lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |")
    return lines


def regressions(report: Report) -> list[str]:
    """What got worse than in production (than the base, before there is a champion), the surest first."""
    role = "champion" if any(each.against.get("champion") for each in report.sets) else "baseline"
    worse = []
    for each in report.sets:
        delta = each.against.get(role)
        if delta is None:
            continue
        sign = 1.0 if each.better == "lower" else -1.0
        ends = [sign * end for end in (delta.low, delta.high) if end is not None]
        if sign * delta.difference > 0:
            sure = bool(ends) and min(ends) > 0
            words = "worse" if sure else "perhaps worse (the interval holds no difference too)"
            measure = each.measure.replace("_", " ")
            worse.append((not sure, f"- **{each.name}**, {measure}: {words} by {_delta(delta)}"))
    name = "the champion" if role == "champion" else "the base"
    return [line for _, line in sorted(worse)] or [f"Nothing that was measured is worse than {name}."]


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


def _found(gate: GateResult) -> str:
    """A gate's value with its interval; "not known" where there is none."""
    if gate.value is None:
        return "not known"
    between = ""
    if gate.low is not None and gate.high is not None:
        between = f" [{_told(gate, gate.low)}, {_told(gate, gate.high)}]"
    against = "" if gate.against == "none" else f" against the {gate.against}"
    return f"{_told(gate, gate.value)}{between}{against}"


def _told(gate: GateResult, value: float) -> str:
    if gate.measure in RUN_FIGURES:
        return f"{value:.4g}"
    return told(value, percent=gate.percent, change=gate.change, unit=gate.unit)
