"""Gates: named rules that the evidence must satisfy before a model becomes a candidate. Pure functions."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.recipe.failures import ConfigInvalid, GatesFailed
from tasks.recipe.models import Gate
from tasks.release.records import MeasuredSet, Report


@dataclass(frozen=True)
class GateResult:
    """A gate's verdict.

    Attributes:
        value: The candidate's value, or its change against the other; None where there is no champion yet.
        low: Lower end of its 95 % interval, None where the report has none.
        high: Upper end.
        threshold: The gate's `at_most` or `at_least`.
        text: The verdict in one line for a person.
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


def judge(gates: Sequence[Gate], report: Report) -> list[GateResult]:
    """Judge every gate on the report.

    Raises:
        ConfigInvalid: A gate names a set, a measure, a comparison or an interval that the report does not
            have: a rule that cannot be checked must not count as passed.
    """
    return [_judge(gate, report) for gate in gates]


def stopped(results: Sequence[GateResult]) -> list[GateResult]:
    """The failed gates that forbid the release."""
    return [result for result in results if not result.passed and result.severity == "stop"]


def failure(model: str, results: Sequence[GateResult]) -> GatesFailed:
    """The error that names each failed stop gate with its figures."""
    failed = stopped(results)
    lines = "\n".join(f"  {result.text}" for result in failed)
    return GatesFailed(
        f"model '{model}': {len(failed)} of {len(results)} gates forbid the release; nothing was registered\n"
        f"{lines}\nThe report and runs/<run>/summary.md have the figures"
    )


def _judge(gate: Gate, report: Report) -> GateResult:
    threshold, sign = _threshold(gate)
    measured = _find(gate, report)
    if gate.against == "none":
        held = measured.values.get("model")
        if held is None:
            raise ConfigInvalid(
                f"gate '{gate.gate}': the report has no value of the candidate for '{gate.measure}'"
            )
        value, low, high = held.value, held.low, held.high
    else:
        delta = measured.against.get(gate.against)
        if delta is None:
            if gate.against == "champion" and measured.values.get("champion") is None:
                text = f"{gate.gate}: passed: no champion yet to compare {gate.measure} with"
                return GateResult(
                    gate.gate, gate.measure, True, gate.severity, None, None, None, threshold, text
                )
            raise ConfigInvalid(
                f"gate '{gate.gate}': the report compares '{gate.measure}' with no {gate.against}; give the "
                f"report step the input '{gate.against}'"
            )
        if gate.change == "relative":
            if delta.relative is None:
                raise ConfigInvalid(
                    f"gate '{gate.gate}': the {gate.against}'s {gate.measure} is 0, so no relative change is "
                    f"defined; write change: absolute"
                )
            value, low, high = delta.relative, delta.relative_low, delta.relative_high
        else:
            value, low, high = delta.difference, delta.low, delta.high
    judged = {"value": value, "low": low, "high": high}[gate.bound]
    if judged is None or not math.isfinite(judged):
        raise ConfigInvalid(
            f"gate '{gate.gate}': the report has no finite {gate.bound} for '{gate.measure}' (found "
            f"{judged}); judge another bound or look at the report step"
        )
    passed = judged * sign <= threshold * sign
    text = _text(gate, passed, value, low, high, threshold)
    return GateResult(gate.gate, gate.measure, passed, gate.severity, value, low, high, threshold, text)


def _threshold(gate: Gate) -> tuple[float, int]:
    """The threshold, and 1 where the value must be at most that, -1 where at least."""
    if gate.at_most is not None and gate.at_least is None:
        return gate.at_most, 1
    if gate.at_least is not None and gate.at_most is None:
        return gate.at_least, -1
    raise ConfigInvalid(f"gate '{gate.gate}': give exactly one of at_most and at_least")


def _find(gate: Gate, report: Report) -> MeasuredSet:
    known = {f"{each.name}.{each.measure}": each for each in report.sets}
    if gate.measure not in known:
        near = difflib.get_close_matches(gate.measure, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(sorted(known)) or 'none'}"
        raise ConfigInvalid(f"gate '{gate.gate}': the report has no measure '{gate.measure}'{hint}")
    return known[gate.measure]


def _text(
    gate: Gate, passed: bool, value: float, low: float | None, high: float | None, threshold: float
) -> str:
    percent = gate.against != "none" and gate.change == "relative"
    rule = f"{'at most' if gate.at_most is not None else 'at least'} {figure(threshold, percent)}"
    where = "" if gate.bound == "value" else f" at the {gate.bound} end of the interval"
    against = "" if gate.against == "none" else f" against the {gate.against}"
    interval = "" if low is None or high is None else f" ({figure(low, percent)} to {figure(high, percent)})"
    verdict = "passed" if passed else ("FAILED" if gate.severity == "stop" else "warns")
    reason = "" if passed else f". {gate.reason}"
    return (
        f"{gate.gate}: {verdict}: {gate.measure} is {figure(value, percent)}{interval}{against}, "
        f"allowed {rule}{where}{reason}"
    )


def figure(value: float, percent: bool) -> str:
    """A figure as people read it: a change in percent with its sign, or four significant digits."""
    return f"{value:+.1%}" if percent else f"{value:.4g}"
