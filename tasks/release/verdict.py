"""The verdict for people, put into the report's page, and the same as JSON (gates.json)."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tasks.recipe.failures import PerennialError
from tasks.recipe.gate_sets.expand import RUN_FIGURES
from tasks.release.costs import LATENCY, cost_of
from tasks.release.drawings import forgetting, interval
from tasks.release.gates import MOST_NEEDED, GateResult, known_figure, rule_words, stopped, told
from tasks.release.mixture import fed, mixture
from tasks.release.records import PlanFacts, StepRecord, ancestors
from tasks.release.spending import total
from tasks.release.summary import SIGNS, changes, counts

SCHEMA = 1
MARKS = ("<!-- verdict -->", "<!-- gates -->", "<!-- changes -->", "<!-- mixture -->", "<!-- run -->")
"""Places in the page of the evaluate stage (tasks/evaluate/page); its style has the classes used below."""

LEGEND = "<small>right of the dashed limit passes</small>"

NBSP = "\u00a0"
"""Between a number and its unit, so that no line ends there."""

POINTS = f"{NBSP}points"

OUTCOMES = {
    "registered": ("pass", "✓ The gates allow this release"),
    "no_change": ("same", "= Nothing new to release"),
    "refused": ("stop", "✗ The gates stop this release"),
}


@dataclass(frozen=True)
class Made:
    """A step of the run: what it read and made, and what it took.

    Attributes:
        candidate: It is part of what the candidate was made from.
        made_from: Names of what it read: steps, data sets, models.
        digest: Of its main output.
        cached: It was not run again; what it took is of the run that made it.
        cost: In the plan's currency; None where its machine has no price.
    """

    step: str
    stage: str
    method: str
    candidate: bool
    made_from: tuple[str, ...]
    figure: str
    digest: str
    machine: str
    device_seconds: float
    cached: bool
    cost: float | None


def verdicts(
    outcome: str, plan: PlanFacts, gates: Sequence[GateResult], records: Mapping[str, StepRecord]
) -> bytes:
    """gates.json: all that the verdict adds to the page, from the same functions.

    Every gate with its verdict, figure, interval, limit, and what it would take to decide; what changed and
    why; what the candidate was fed; which steps made it of what; and what they took.
    """
    whole = total(cost_of(record, plan) for record in records.values())
    content = {
        "schema": SCHEMA,
        "run": plan.run,
        "model": plan.model,
        "outcome": outcome,
        "correction": plan.release.correction,
        "stopped_by": [gate.gate for gate in stopped(gates)],
        "gates": [asdict(gate) for gate in gates],
        "changes": [{"step": step, "reason": reason} for step, reason in changes(records.values())],
        "mixture": [asdict(each) for each in fed(plan, records)],
        "lineage": [asdict(each) for each in made(plan, records)],
        "cost": whole.model_dump() | {"currency": plan.currency},
        "latency_ms": latencies(plan, records),
    }
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def with_verdict(
    page: Path,
    outcome: str,
    headline: str,
    gates: Sequence[GateResult],
    plan: PlanFacts,
    records: Mapping[str, StepRecord],
) -> bytes:
    """The evaluation's page with the verdict, what changed, and where it came from and what it cost.

    Raises:
        PerennialError: The page lacks one of the marks.
    """
    text = page.read_text(encoding="utf-8")
    parts = (
        _verdict(outcome, headline, gates),
        _gates(gates, plan) + _open(gates) + forgetting(gates),
        _changes(records),
        mixture(plan, records),
        _run(plan, records),
    )
    for mark, part in zip(MARKS, parts, strict=True):
        if mark not in text:
            raise PerennialError(f"{page}: no '{mark}' to write at; the evaluate stage must put it there")
        text = text.replace(mark, part, 1)
    return text.encode()


def _verdict(outcome: str, headline: str, gates: Sequence[GateResult]) -> str:
    """In a line, and the gates that stop it."""
    kind, words = OUTCOMES[outcome]
    why = "".join(f"<li>{_short(gate)}</li>" for gate in stopped(gates))
    return (
        f'<div class="banner {kind}"><p class="big">{words}</p><p>{html.escape(headline)}. '
        f"{counts(gates)}.</p>"
        f"{f'<ul>{why}</ul>' if why else ''}</div>"
    )


def _short(gate: GateResult) -> str:
    """A gate that stops the release, in half a line."""
    found = "not known"
    if gate.value is not None:
        between = ""
        if gate.low is not None and gate.high is not None:
            between = f" ({shown(gate, gate.low).removesuffix(POINTS)} to {shown(gate, gate.high)})"
        against = "" if gate.against == "none" else f" against the {gate.against}"
        found = f"{shown(gate, gate.value)}{between}{against}"
    return (
        f"<b>{SIGNS[gate.verdict]} {html.escape(gate.gate)}</b> {gate.verdict}: "
        f"{html.escape(gate.measure)} is {found}, allowed {_allowed(gate)}"
    )


def _allowed(gate: GateResult) -> str:
    return f"{rule_words(gate.sign, strict=gate.strict)} {shown(gate, gate.threshold)}"


def _gates(gates: Sequence[GateResult], plan: PlanFacts) -> str:
    """Every gate, those that stop the release first, then those that warn."""
    if not gates:
        return "<p>The recipe has no gates.</p>"
    ordered = sorted(gates, key=lambda gate: (gate.passed, gate.severity != "stop"))
    tested = sum(gate.confidence is not None for gate in gates)
    corrected = plan.release.correction == "bonferroni" and tested > 1
    note = ""
    if tested:
        note = (
            f'<p class="note">A gate with a confidence passes only where its whole interval keeps to the '
            f"limit, and fails only where the whole interval breaks it. The confidence holds "
            f"{f'for all {tested} of them together' if corrected else 'for each of them alone'}. "
            f"What lies closer to the limit than stands behind <i>shows from</i> is left undecided more "
            f"often than once in five. \u25bc and \u25b2 count the items that became worse and better.</p>"
        )
    head = "".join(
        f'<th scope="col">{each}</th>'
        for each in ("Verdict", "Gate", "Found", f"Interval{LEGEND}", "Allowed", "Items")
    )
    rows = "".join(_row(gate) for gate in ordered)
    return (
        f'{note}<div class="scroll"><table class="gates"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(gate: GateResult) -> str:
    soft = "" if gate.severity == "stop" else "<small>only warns</small>"
    missing = f"<small>no {gate.against} yet</small>" if gate.passed else "not known"
    found = missing if gate.value is None else shown(gate, gate.value)
    against = (
        "" if gate.against == "none" or gate.value is None else f"<small>against the {gate.against}</small>"
    )
    between = (
        ""
        if gate.low is None or gate.high is None
        else f"<small>{shown(gate, gate.low).removesuffix(POINTS)} to {shown(gate, gate.high)}</small>"
    )
    sure = "" if gate.confidence is None else f"<small>{100 * gate.confidence:.4g} % confidence</small>"
    if gate.detectable:
        sure += f"<small>shows from {shown(gate, gate.detectable).lstrip('+')} beyond</small>"
    items = "" if gate.items is None else f"{gate.items:,}"
    if gate.needed is not None and gate.needed <= MOST_NEEDED * (gate.items or 0):
        items += f"<small>about {gate.needed:,} needed</small>"
    items += _items(gate)
    return (
        f'<tr class="{gate.verdict}">'
        f'<td><b class="sign">{SIGNS[gate.verdict]} {gate.verdict}</b>{soft}</td>'
        f'<th scope="row"><b>{html.escape(gate.gate)}</b><small>{html.escape(gate.measure)}</small>'
        f'<small class="why">{html.escape(gate.reason)}</small></th>'
        f'<td data-label="Found">{found}{against}{between}</td>'
        f"<td>{interval(gate, partial(shown, gate))}</td>"
        f'<td data-label="Allowed">{_allowed(gate)}{sure}</td><td data-label="Items">{items}</td></tr>'
    )


def _items(gate: GateResult) -> str:
    """How many items changed, and where the page names them."""
    if gate.changed is None:
        return ""
    counts = f"\u25bc {gate.changed.worse:,} \u25b2 {gate.changed.better:,}"
    words = f"{gate.changed.worse:,} items worse, {gate.changed.better:,} better"
    if not gate.changed.worse + gate.changed.better:
        return f"<small>{counts}</small>"
    place = anchor("changed", gate.changed.set, gate.changed.figure, gate.changed.against)
    return f'<small><a href="#{html.escape(place)}" aria-label="{words}">{counts}</a></small>'


def anchor(*words: str) -> str:
    """Where the page of the evaluate stage shows something (tasks/evaluate/page/flips.py)."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(words))


def shown(gate: GateResult, value: float) -> str:
    """A gate's figure with its unit, and a real minus."""
    if gate.measure in RUN_FIGURES:
        return known_figure(gate.measure, value).replace(" ", NBSP)
    text = told(value, percent=gate.percent, change=gate.change, unit=html.escape(gate.unit))
    return text.replace("-", "\u2212").replace("%", " %").replace("  ", " ").replace(" ", NBSP)


def _open(gates: Sequence[GateResult]) -> str:
    """What could not be decided, and what it would take."""
    undecided = [gate for gate in gates if gate.verdict == "undecided"]
    if not undecided:
        return ""
    lines = "".join(f"<li><b>{html.escape(gate.gate)}</b>: {_missing(gate)}</li>" for gate in undecided)
    return f"<h3>What could not be decided</h3><ul>{lines}</ul>"


def _missing(gate: GateResult) -> str:
    if gate.detectable is None or gate.items is None:
        return html.escape(gate.text.split(": ", 2)[-1])
    reach = shown(gate, gate.detectable).lstrip("+")
    more = (
        f"as near to it as this it would take about {gate.needed:,}"
        if gate.needed is not None and gate.needed <= MOST_NEEDED * gate.items
        else "as near to it as this no sensible number would"
    )
    return f"{gate.items:,} items decide from about {reach} beyond the limit on; {more}"


def _changes(records: Mapping[str, StepRecord]) -> str:
    items = "".join(
        f"<li><b>{html.escape(step)}</b>: {html.escape(reason)}</li>"
        for step, reason in changes(records.values())
    )
    return f"<ul>{items}</ul>"


def made(plan: PlanFacts, records: Mapping[str, StepRecord]) -> list[Made]:
    """The steps of the run in their order, what each read and made, and what it took."""
    step = plan.release.candidate.partition(".")[0]
    lineage = {record.step for record in ancestors(records, step)}
    names = {data.digest: f"data.{name}" for name, data in plan.data.items()}
    names |= {pin.digest: uri for uri, pin in plan.uris.items()}
    names |= {pin.digest: name for name, pin in plan.bindings.items() if pin is not None}
    names |= {output.digest: name for name, record in records.items() for output in record.outputs.values()}
    machines = {each.name: each.resources for each in plan.steps}
    return [
        Made(
            step=name,
            stage=record.stage,
            method=record.method,
            candidate=name in lineage,
            made_from=tuple(
                sorted({names.get(one, one[:12]) for many in record.inputs.values() for one in many})
            ),
            figure=record.figure,
            digest=record.main().digest,
            machine=machines.get(name, ""),
            device_seconds=record.device_seconds,
            cached=record.cached,
            cost=cost_of(record, plan).cost,
        )
        for name, record in records.items()
    ]


def _run(plan: PlanFacts, records: Mapping[str, StepRecord]) -> str:
    """The steps as a table."""
    steps = made(plan, records)
    priced = any(each.cost is not None for each in steps)
    column = f"Cost ({plan.currency})" if plan.currency else "Cost"
    head = "".join(
        f'<th scope="col">{each}</th>'
        for each in (
            "Step",
            "Made from",
            "Result",
            "Machine",
            "Time",
            *([html.escape(column)] if priced else []),
        )
    )
    rows = []
    for each in steps:
        cost = f"<td>{_price(each.cost)}</td>" if priced else ""
        rows.append(
            f'<tr><th scope="row"><b>{html.escape(each.step)}</b>'
            f"<small>{html.escape(each.stage)}/{html.escape(each.method)}"
            f"{', part of the candidate' if each.candidate else ''}</small></th>"
            f"<td>{html.escape(', '.join(each.made_from))}</td>"
            f"<td>{html.escape(each.figure or '–')}<small>{each.digest[:12]}</small></td>"
            f"<td>{html.escape(each.machine)}</td><td>{_time(each.device_seconds)}"
            f"{'<small>not run again</small>' if each.cached else ''}</td>{cost}</tr>"
        )
    whole = total(cost_of(record, plan) for record in records.values())
    last = f"<td>{_price(whole.cost)}</td>" if priced else ""
    return _speed(plan, records) + (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody><tfoot><tr>'
        f'<th scope="row">All steps</th><td></td><td></td><td></td>'
        f"<td>{_time(whole.device_seconds)}</td>{last}</tr></tfoot></table></div>"
    )


def latencies(plan: PlanFacts, records: Mapping[str, StepRecord]) -> dict[str, float]:
    """Milliseconds of a new token, by model, where the report step measured them."""
    metrics = records[plan.release.report.partition(".")[0]].metrics
    named = {LATENCY: "candidate"} | {f"{LATENCY}.{role}": role for role in ("baseline", "champion")}
    return {name: metrics[metric] for metric, name in named.items() if metric in metrics}


def _speed(plan: PlanFacts, records: Mapping[str, StepRecord]) -> str:
    """How long a new token takes, where it was measured."""
    told = [f"{name} {milliseconds:.3g} ms" for name, milliseconds in latencies(plan, records).items()]
    if not told:
        return ""
    return (
        f"<p>Time for a new token, one text at a time, on the report step's machine: {', '.join(told)}.</p>"
    )


def _price(cost: float | None) -> str:
    return "–" if cost is None else f"{cost:.4g}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"
