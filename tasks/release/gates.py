"""Gates: named rules that the evidence must satisfy before a model becomes a candidate. Pure functions.

A gate with a confidence is a test that can end in three ways: its limit is kept (passed), it is broken
(failed), each with that confidence, or the items do not tell (undecided). docs/decisions/0010 says why.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from tasks.recipe.failures import ConfigInvalid, GatesFailed
from tasks.recipe.gate_sets.expand import RUN_FIGURES
from tasks.recipe.models import Gate
from tasks.release.intervals import Ends, detectable, ends, needed
from tasks.release.records import ChangedItems, MeasuredSet, Report

Correction = Literal["bonferroni", "none"]
Verdict = Literal["passed", "failed", "undecided"]
UNITS = {"run.device_hours": "h", "model.bytes": "bytes", "model.latency_ms": "ms"}
"""Of the figures of a run; the others have none, or the recipe's currency."""

FEWEST = 2
"""Items below which there is no interval."""

GAP = "_gap"
"""Behind a figure's name: its largest difference between two groups."""

MOST_KEYS = 50
"""Changed items of each direction that a verdict names; the report has the rest."""

MOST_NEEDED = 1000
"""Times as many items as there are; where more would be needed, no number is told."""


@dataclass(frozen=True)
class Changed:
    """The items that a verdict is about.

    Attributes:
        set: Of the report.
        figure: What was looked at item by item.
        against: The other model.
        worse: How many items became worse.
        better: How many became better.
        worse_keys: The first of them, at most `MOST_KEYS`.
        better_keys: Likewise.
    """

    set: str
    figure: str
    against: str
    worse: int
    better: int
    worse_keys: tuple[str, ...]
    better_keys: tuple[str, ...]


@dataclass(frozen=True)
class GateResult:
    """A gate's verdict.

    Attributes:
        passed: The verdict is `passed`: undecided is not.
        value: The candidate's value, or its change against the other; None where it is not known.
        low: Lower end of its interval: of the gate's own, or the report's where it has no confidence.
        high: Upper end.
        threshold: The limit on the value or change, in its own direction.
        text: The verdict in one line for a person.
        verdict: How it ended.
        against: What the value is a change against, "none" where it is none.
        change: Value, ends and threshold are of a change; a share of flips is not one.
        percent: Value, ends and threshold are shares of the other's value.
        strict: The value must be beyond the threshold, not only reach it.
        sign: 1 where at most the threshold passes, -1 where at least it.
        unit: Of the figure.
        better: Which way is better for it.
        items: How many items it was judged on; None for figures of the run.
        confidence: The gate's own, one-sided; None without.
        tail: The chance of error that is left to this gate after the correction.
        detectable: The smallest distance from the limit that these items decide on four times in five.
        needed: About how many items would have decided an undecided gate.
        reason: Why the rule is there.
        changed: The items that it is about, by key: those that became worse and better than under the model
            that it compares with. None for a figure of no items, or against nothing.
    """

    gate: str
    measure: str
    passed: bool
    severity: Literal["stop", "warn"]
    value: float | None
    low: float | None
    high: float | None
    threshold: float
    text: str
    verdict: Verdict = "passed"
    against: str = "none"
    change: bool = False
    percent: bool = False
    strict: bool = False
    sign: int = 1
    unit: str = ""
    better: Literal["lower", "higher"] = "lower"
    items: int | None = None
    confidence: float | None = None
    tail: float | None = None
    detectable: float | None = None
    needed: int | None = None
    reason: str = ""
    changed: Changed | None = None


@dataclass(frozen=True)
class Known:
    """A figure of the run: its value, or None and why it is not known."""

    value: float | None
    why: str = ""


@dataclass(frozen=True)
class _Limit:
    """What passes: at most (1) or at least (-1) the threshold; strictly beyond it where `strict`."""

    threshold: float
    sign: int
    strict: bool

    def kept(self, value: float) -> bool:
        """Whether a value is on the right side."""
        distance = (self.threshold - value) * self.sign
        return distance > 0 if self.strict else distance >= 0


def judge(
    gates: Sequence[Gate],
    report: Report,
    *,
    correction: Correction = "bonferroni",
    known: Mapping[str, Known] | None = None,
) -> list[GateResult]:
    """Judge every gate.

    Args:
        gates: The rules.
        report: The evidence.
        correction: Whether the error that each confidence leaves is divided by the number of gates with one.
        known: The figures of the run, by name.

    Raises:
        ConfigInvalid: A gate names a set, a figure, a comparison or an interval that the report does not
            have: a rule that cannot be checked must not count as passed.
    """
    tests = sum(gate.confidence is not None for gate in gates)
    share = tests if correction == "bonferroni" else 1
    found = []
    for gate in gates:
        try:
            result = _judge(gate, report, share, known or {})
            found.append(replace(result, changed=_changed(gate, report)))
        except ConfigInvalid as error:
            raise ConfigInvalid(f"gate '{gate.gate}': {error}") from error
    return found


def stopped(results: Sequence[GateResult]) -> list[GateResult]:
    """The failed and undecided gates that forbid the release."""
    return [result for result in results if not result.passed and result.severity == "stop"]


def failure(model: str, results: Sequence[GateResult]) -> GatesFailed:
    """The error with the figures of each gate that stops the release, then of those that passed."""
    failed = stopped(results)
    lines = "\n".join(f"  {result.text}" for result in failed)
    passed = "".join(f"\n  {result.text}" for result in results if result.passed)
    return GatesFailed(
        f"model '{model}': {len(failed)} of {len(results)} gates forbid the release; nothing was registered\n"
        f"{lines}{passed}\nThe report and runs/<run>/summary.md have the figures"
    )


@dataclass(frozen=True)
class _Found:
    """What the report says of a gate's figure, in the gate's unit."""

    value: float
    low: float | None
    high: float | None
    quantiles: Mapping[str, float] | None
    same: bool = False
    """The other is the candidate itself: no sample of items could tell them apart."""


def _judge(gate: Gate, report: Report, tests: int, known: Mapping[str, Known]) -> GateResult:
    if gate.measure in RUN_FIGURES:
        return _judge_known(gate, known.get(gate.measure, Known(None, "it is not on record")))
    measured = _find(gate, report)
    items = measured.items if measured is not None else 0
    if measured is None or items == 0 or (gate.confidence is not None and items < FEWEST):
        return _untold(gate, items, f"{gate.measure} rests on {items} items, which tell nothing")
    limit = _limit(gate, measured.better)
    if gate.against == "none":
        held = measured.values.get("model")
        if held is None:
            raise ConfigInvalid(f"the report has no value of the candidate for '{gate.measure}'")
        return _verdict(gate, measured, limit, _Found(held.value, held.low, held.high, held.quantiles), tests)
    delta = measured.against.get(gate.against)
    if delta is None:
        if gate.against == "champion" and report.models.get("champion") is None:
            text = f"{gate.gate}: passed: no champion yet to compare {gate.measure} with"
            return _result(gate, limit, "passed", text, items=measured.items)
        beside = (each for each in report.sets if each.name == measured.name)
        if any(each.against.get(gate.against) is not None for each in beside):
            return _untold(gate, items, f"no item of {gate.measure} tells anything about the {gate.against}")
        raise ConfigInvalid(
            f"the report compares '{gate.measure}' with no {gate.against}; give the report step the input "
            f"'{gate.against}'"
        )
    found = _Found(delta.difference, delta.low, delta.high, delta.quantiles)
    if gate.change == "relative":
        if delta.relative is None:
            raise ConfigInvalid(
                f"the {gate.against}'s {gate.measure} is 0, so no relative change is defined; write change: "
                f"absolute"
            )
        if gate.confidence is not None and delta.relative_quantiles is None and delta.quantiles is not None:
            why = f"with other items the {gate.against}'s {gate.measure} could be 0; write change: absolute"
            return _untold(gate, items, why)
        found = _Found(delta.relative, delta.relative_low, delta.relative_high, delta.relative_quantiles)
    found = replace(found, same=report.same_model(gate.against))
    return _verdict(gate, measured, limit, found, tests)


def _untold(gate: Gate, items: int, why: str) -> GateResult:
    """Undecided, since the report has no figure to judge."""
    text = f"{gate.gate}: {_word('undecided', gate)}: {why}. {gate.reason}"
    return _result(gate, _limit(gate, "lower"), "undecided", text, items=items)


def _judge_known(gate: Gate, figure_: Known) -> GateResult:
    """A figure of the run against its limit."""
    limit = _limit(gate, "lower")
    if figure_.value is None:
        word = _word("undecided", gate)
        text = f"{gate.gate}: {word}: {gate.measure} is not known: {figure_.why}. {gate.reason}"
        return _result(gate, limit, "undecided", text)
    verdict: Verdict = "passed" if limit.kept(figure_.value) else "failed"
    reason = "" if verdict == "passed" else f". {gate.reason}"
    say = partial(known_figure, gate.measure)
    text = (
        f"{gate.gate}: {_word(verdict, gate)}: {gate.measure} is {say(figure_.value)}, "
        f"allowed {_rule(limit, say)}{reason}"
    )
    return _result(gate, limit, verdict, text, value=figure_.value)


def _verdict(gate: Gate, measured: MeasuredSet, limit: _Limit, found: _Found, tests: int) -> GateResult:
    def say(value: float) -> str:
        return told(value, percent=change and gate.change == "relative", change=change, unit=measured.unit)

    change = gate.against != "none" and any(held is not None for held in measured.values.values())
    low, high = found.low, found.high
    tail = least = more = None
    verdict: Verdict
    addition = ""
    if gate.confidence is None:
        judged = {"value": found.value, "low": low, "high": high}[gate.bound]
        if judged is None or not math.isfinite(judged):
            raise ConfigInvalid(
                f"the report has no finite {gate.bound} for '{gate.measure}' (found {judged}); judge another "
                f"bound or look at the report step"
            )
        verdict = "passed" if limit.kept(judged) else "failed"
        where = "" if gate.bound == "value" else f" at the {gate.bound} end of the interval"
    else:
        tail = (1 - gate.confidence) / tests
        if found.same:
            reached = Ends(found.value, found.value, 0.0)
        elif found.quantiles:
            reached = ends(found.quantiles, tail)
        else:
            raise ConfigInvalid(
                f"the report keeps no distribution of '{gate.measure}' to be sure of anything with: make it "
                f"anew if an older version made it, else leave the confidence out"
            )
        low, high = reached.low, reached.high
        if not all(math.isfinite(each) for each in (found.value, low, high)):
            raise ConfigInvalid(f"the report has no finite interval for '{gate.measure}'")
        near, far = (low, high) if limit.sign == 1 else (high, low)
        verdict = "passed" if limit.kept(far) else "failed" if not limit.kept(near) else "undecided"
        where = f" with {100 * gate.confidence:.4g} % confidence"
        least = detectable(reached, tail)
        if verdict == "undecided":
            more = needed(reached, tail, measured.items, limit.threshold - found.value)
            addition = _undecided(measured.items, least, more, say)
    against = "" if gate.against == "none" else f" against the {gate.against}"
    interval = "" if low is None or high is None else f" ({say(low).removesuffix(' points')} to {say(high)})"
    reason = "" if verdict == "passed" else f"{addition}. {gate.reason}"
    text = (
        f"{gate.gate}: {_word(verdict, gate)}: {gate.measure} is {say(found.value)}{interval}"
        f"{against}, allowed {_rule(limit, say)}{where}{reason}"
    )
    return _result(
        gate,
        limit,
        verdict,
        text,
        value=found.value,
        low=low,
        high=high,
        change=change,
        unit=measured.unit,
        better=measured.better,
        items=measured.items,
        tail=tail,
        detectable=least,
        needed=more,
    )


def _undecided(items: int, least: float, more: int | None, say: Callable[[float], str]) -> str:
    """Why an undecided gate is, in words."""
    reach = f": {items:,} items decide from about {say(least).lstrip('+')} beyond the limit on"
    if more is None or more > MOST_NEEDED * items:
        return f"{reach}, and as near to it as this no sensible number does"
    return f"{reach}, at this distance it takes about {more:,}"


def _result(
    gate: Gate,
    limit: _Limit,
    verdict: Verdict,
    text: str,
    *,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    change: bool = False,
    unit: str = "",
    better: Literal["lower", "higher"] = "lower",
    items: int | None = None,
    tail: float | None = None,
    detectable: float | None = None,
    needed: int | None = None,
) -> GateResult:
    return GateResult(
        gate=gate.gate,
        measure=gate.measure,
        passed=verdict == "passed",
        severity=gate.severity,
        value=value,
        low=low,
        high=high,
        threshold=limit.threshold,
        text=text,
        verdict=verdict,
        against=gate.against,
        change=change,
        percent=change and gate.change == "relative",
        strict=limit.strict,
        sign=limit.sign,
        unit=unit,
        better=better,
        items=items,
        confidence=gate.confidence,
        tail=tail,
        detectable=detectable,
        needed=needed,
        reason=gate.reason,
    )


def _limit(gate: Gate, better: Literal["lower", "higher"]) -> _Limit:
    given = [
        (name, value)
        for name in ("at_most", "at_least", "better_by", "worse_by")
        if (value := getattr(gate, name, None)) is not None
    ]
    if len(given) != 1:
        raise ConfigInvalid("give exactly one of at_most and at_least, better_by or worse_by")
    name, value = given[0]
    if name in ("at_most", "at_least"):
        return _Limit(value, 1 if name == "at_most" else -1, strict=False)
    sign = 1 if better == "lower" else -1
    return _Limit(-sign * value if name == "better_by" else sign * value, sign, strict=name == "better_by")


def _find(gate: Gate, report: Report) -> MeasuredSet | None:
    """The set with the gate's figure; None where a set is there and had no item for the figure."""
    known = {f"{each.name}.{each.measure}": each for each in report.sets}
    if gate.measure not in known:
        if gate.confidence is not None and gate.measure.rpartition(".")[0] in {
            each.name for each in report.sets
        }:
            return None
        near = difflib.get_close_matches(gate.measure, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(sorted(known)) or 'none'}"
        raise ConfigInvalid(f"the report has no measure '{gate.measure}'{hint}")
    return known[gate.measure]


def _changed(gate: Gate, report: Report) -> Changed | None:
    """The changed items that the gate's figure follows from."""
    name, _, figure_ = gate.measure.rpartition(".")
    wanted = figure_.removesuffix(GAP)

    def about(each: ChangedItems) -> bool:
        return each.set == name and each.against == gate.against and wanted in (each.figure, *each.figures)

    found = next((each for each in report.changed if about(each)), None)
    if found is None:
        return None
    return Changed(
        name,
        found.figure,
        found.against,
        found.counts["worse"],
        found.counts["better"],
        tuple(found.worse[:MOST_KEYS]),
        tuple(found.better[:MOST_KEYS]),
    )


def _word(verdict: Verdict, gate: Gate) -> str:
    if verdict == "passed":
        return "passed"
    if gate.severity == "warn":
        return "warns" if verdict == "failed" else "warns, undecided"
    return "FAILED" if verdict == "failed" else "UNDECIDED, so it stops"


def _rule(limit: _Limit, say: Callable[[float], str]) -> str:
    return f"{rule_words(limit.sign, strict=limit.strict)} {say(limit.threshold)}"


def rule_words(sign: int, *, strict: bool) -> str:
    """`at most` and its like, for a limit in words."""
    if strict:
        return "less than" if sign == 1 else "more than"
    return "at most" if sign == 1 else "at least"


def figure(value: float, percent: bool) -> str:
    """A figure as people read it: a change in percent with its sign, or four significant digits."""
    value = value or 0.0  # no minus before a zero
    return f"{value:+.1%}" if percent else f"{value:.4g}"


def known_figure(measure: str, value: float) -> str:
    """A figure of the run as people read it, with its unit."""
    number = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{number} {UNITS.get(measure, '')}".rstrip()


def told(value: float, *, percent: bool, change: bool, unit: str) -> str:
    """A gate's figure as people read it: percent of the other's value, points of a share, or its unit."""
    if percent or unit:
        return figure(value, percent) + (f" {unit}" if not percent else "")
    return f"{100 * (value or 0.0):+.1f} points" if change else f"{100 * value:.1f} %"
