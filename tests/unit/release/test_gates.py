from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import pytest

from tasks.recipe.failures import ConfigInvalid, Failure
from tasks.recipe.models import Gate
from tasks.release.gates import GateResult, Known, failure, judge, stopped
from tasks.release.records import Report

MakeReport = Callable[..., dict[str, Any]]


def gate(**more: Any) -> Gate:
    fields = {"gate": "g", "measure": "news.bits_per_byte", "reason": "it matters", **more}
    return Gate.model_validate(fields)


def verdict(given: Gate, report: dict[str, Any]) -> GateResult:
    (result,) = judge([given], Report.model_validate(report))
    return result


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ({"against": "baseline", "change": "relative", "at_most": -0.15}, True),
        ({"against": "baseline", "change": "relative", "at_most": -0.2}, True),
        ({"against": "baseline", "change": "relative", "at_most": -0.21}, False),
        ({"against": "baseline", "change": "relative", "at_most": -0.15, "bound": "high"}, True),
        ({"against": "baseline", "change": "relative", "at_most": -0.16, "bound": "high"}, False),
        ({"against": "baseline", "change": "relative", "at_most": -0.21, "bound": "low"}, True),
        ({"against": "baseline", "change": "absolute", "at_most": -0.4}, True),
        ({"against": "baseline", "change": "absolute", "at_most": -0.41}, False),
        ({"against": "baseline", "change": "relative", "at_least": -0.2}, True),
        ({"against": "baseline", "change": "relative", "at_least": -0.19}, False),
        ({"against": "none", "at_most": 2.0}, True),
        ({"against": "none", "at_least": 2.0, "bound": "low"}, False),
        ({"against": "none", "at_most": 2.0, "bound": "high"}, False),
        ({"against": "champion", "change": "relative", "at_most": 0.01}, True),
        ({"against": "champion", "change": "relative", "at_most": -0.01}, False),
    ],
)
def test_each_rule_judges_what_it_says(rule: dict[str, Any], passed: bool, make_report: MakeReport) -> None:
    assert verdict(gate(**rule), make_report(relative=-0.2, champion=0.0)).passed is passed


def test_verdict_carries_the_figures(make_report: MakeReport) -> None:
    result = verdict(gate(against="baseline", change="relative", at_most=-0.3), make_report(relative=-0.2))
    assert [result.value, result.low, result.high] == pytest.approx([-0.2, -0.25, -0.15])
    assert result.threshold == -0.3
    for part in ("FAILED", "-20.0%", "-25.0% to -15.0%", "at most -30.0%", "it matters"):
        assert part in result.text


def test_no_champion_yet_passes_in_words(make_report: MakeReport) -> None:
    result = verdict(gate(against="champion", change="relative", at_most=0.0), make_report(champion=None))
    assert result.passed
    assert result.value is None
    assert "no champion yet" in result.text


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"measure": "newz.bits_per_byte", "at_most": 1}, "did you mean 'news.bits_per_byte'"),
        ({"measure": "exams.accuracy", "at_most": 1}, "no measure 'exams.accuracy'"),
        ({}, "exactly one of at_most and at_least"),
        ({"at_most": 1, "at_least": 0}, "exactly one"),
    ],
)
def test_a_rule_that_cannot_be_checked_is_an_error(
    rule: dict[str, Any], told: str, make_report: MakeReport
) -> None:
    fields = {"gate": "g", "measure": "news.bits_per_byte", "reason": "r"} | rule
    # The recipe language refuses some of these itself; a plan may come from elsewhere.
    given = Gate.model_construct(**fields)
    with pytest.raises(ConfigInvalid, match=told):
        verdict(given, make_report())


def test_a_report_without_the_comparison_is_an_error(make_report: MakeReport) -> None:
    report = make_report(relative=-0.2)
    report["sets"][0]["against"]["baseline"] = None
    with pytest.raises(ConfigInvalid, match="input 'baseline'"):
        verdict(gate(against="baseline", at_most=0), report)
    report["sets"][0]["against"]["baseline"] = {"difference": 1.0, "low": None, "high": None}
    with pytest.raises(ConfigInvalid, match="change: absolute"):
        verdict(gate(against="baseline", change="relative", at_most=0), report)
    with pytest.raises(ConfigInvalid, match="no finite high"):
        verdict(gate(against="baseline", at_most=0, bound="high"), report)


def test_a_figure_that_is_no_number_never_passes(make_report: MakeReport) -> None:
    report = make_report()
    report["sets"][0]["values"]["model"]["value"] = float("nan")
    with pytest.raises(ConfigInvalid, match="no finite value"):
        verdict(gate(at_most=9), report)


def test_only_stop_gates_stop(make_report: MakeReport) -> None:
    rule = {"against": "baseline", "change": "relative", "at_most": -0.9}
    report = Report.model_validate(make_report())
    results = judge([gate(gate="hard", **rule), gate(gate="soft", severity="warn", **rule)], report)
    assert [result.gate for result in stopped(results)] == ["hard"]
    assert "soft: warns" in results[1].text
    error = failure("pydocs", results)
    assert error.failure is Failure.GATES_FAILED
    assert "1 of 2 gates" in str(error)
    assert "hard: FAILED" in str(error)
    assert "soft" not in str(error)


PROBABILITIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
EVERY = (*PROBABILITIES, *(1 - each for each in PROBABILITIES[:-1]))


def sure(value: float, error: float, **more: Any) -> dict[str, Any]:
    """A report of one set of 100 items with a normal distribution of the difference."""
    spread = NormalDist(value, error)
    kept = {f"{p:g}": spread.inv_cdf(p) for p in EVERY}
    delta = {"difference": value, "low": value - 2 * error, "high": value + 2 * error, "quantiles": kept}
    named = {"name": "exams", "measure": "accuracy", "unit": "", "better": "higher", "items": 100} | more
    held = {"value": 0.5, "low": 0.4, "high": 0.6}
    return {
        "models": {"model": {"digest": "m"}, "baseline": {"digest": "b"}, "champion": None},
        "sets": [
            {**named, "values": {"model": held, "baseline": held}, "against": {"baseline": delta}},
        ],
    }


def exam(**more: Any) -> Gate:
    return gate(measure="exams.accuracy", against="baseline", confidence=0.95, **more)


@pytest.mark.parametrize(
    ("value", "error", "rule", "expected"),
    [
        (0.05, 0.02, {"better_by": 0.0}, "passed"),
        (0.05, 0.04, {"better_by": 0.0}, "undecided"),
        (-0.05, 0.02, {"better_by": 0.0}, "failed"),
        (0.05, 0.02, {"better_by": 0.04}, "undecided"),
        (0.05, 0.02, {"better_by": 0.09}, "failed"),
        (-0.01, 0.005, {"worse_by": 0.02}, "passed"),
        (-0.01, 0.02, {"worse_by": 0.02}, "undecided"),
        (-0.06, 0.02, {"worse_by": 0.02}, "failed"),
        (-0.06, 0.02, {"at_least": -0.1}, "passed"),
        (-0.06, 0.02, {"at_most": -0.02}, "passed"),
        (-0.06, 0.02, {"at_most": -0.1}, "failed"),
    ],
)
def test_a_confidence_asks_for_the_whole_interval(
    value: float, error: float, rule: dict[str, float], expected: str
) -> None:
    result = verdict(exam(**rule), sure(value, error))
    assert result.verdict == expected
    assert result.passed is (expected == "passed")


@pytest.mark.parametrize(("better", "value"), [("higher", 0.05), ("lower", -0.05)])
def test_better_and_worse_follow_the_figure(better: str, value: float) -> None:
    assert verdict(exam(better_by=0.01), sure(value, 0.01, better=better)).passed
    assert not verdict(exam(better_by=0.01), sure(-value, 0.01, better=better)).passed
    assert verdict(exam(worse_by=0.1), sure(-value, 0.01, better=better)).passed
    assert not verdict(exam(worse_by=0.01), sure(-value, 0.01, better=better)).passed


def test_undecided_stops_and_says_what_it_would_take() -> None:
    results = judge([exam(gate="learned", better_by=0.0)], Report.model_validate(sure(0.02, 0.02)))
    (result,) = results
    assert stopped(results) == [result]
    # (1.645 + 0.842) standard errors at 100 items, and as many items as bring that to the seen 0.02.
    assert result.detectable == pytest.approx(2.486 * 0.02, rel=1e-3)
    assert result.needed == pytest.approx(100 * 2.486**2, abs=1)
    for part in (
        "UNDECIDED, so it stops",
        "100 items decide from about 5.0 points",
        "about 619",
        "95 % confidence",
    ):
        assert part in result.text, result.text
    (soft,) = judge([exam(severity="warn", better_by=0.0)], Report.model_validate(sure(0.02, 0.02)))
    assert "warns, undecided" in soft.text
    assert not stopped([soft])


def test_the_number_of_items_that_an_undecided_gate_names_decides() -> None:
    undecided = verdict(exam(better_by=0.0), sure(0.02, 0.02))
    assert undecided.needed is not None
    more = sure(0.02, 0.02 * (100 / undecided.needed) ** 0.5, items=undecided.needed)
    assert verdict(exam(better_by=0.0), more).verdict == "passed"
    assert verdict(exam(worse_by=0.05), sure(0.02, 0.02)).verdict == "passed"  # or a margin that is bearable


def test_nothing_would_decide_what_lies_on_the_limit() -> None:
    assert "no sensible number" in verdict(exam(better_by=0.02), sure(0.02, 0.02)).text


def test_the_error_is_shared_by_all_gates_with_a_confidence() -> None:
    report = Report.model_validate(sure(0.04, 0.02))
    gates = [exam(gate=f"g{n}", better_by=0.0) for n in range(5)]
    plain = gate(gate="plain", measure="exams.accuracy", at_least=0.1)
    alone, *_ = judge([gates[0], plain], report)
    assert alone.verdict == "passed"
    assert alone.tail == pytest.approx(0.05)
    together, *_ = judge([*gates, plain], report)
    assert together.verdict == "undecided"
    assert together.tail == pytest.approx(0.01)
    uncorrected, *_ = judge([*gates, plain], report, correction="none")
    assert uncorrected.verdict == "passed"


def test_a_figure_that_no_item_tells_of_one_model_is_undecided() -> None:
    """Requests of one sort have no over-refusal; of an other model that knows no fact none can be kept."""
    report = sure(0.0, 0.02)
    entry = report["sets"][0]
    other = {**entry, "measure": "kept", "against": {"baseline": None, "champion": None}}
    none = {**other, "measure": "over_refusal", "items": 0, "values": {"model": None, "baseline": None}}
    report["sets"] = [entry, other, none]
    for name, words in (("kept", "tells anything about the baseline"), ("over_refusal", "rests on 0 items")):
        for confidence in (0.95, None):
            rule = {"measure": f"exams.{name}", "against": "baseline", "confidence": confidence}
            result = verdict(gate(**rule, worse_by=0.02), report)
            assert result.verdict == "undecided"
            assert words in result.text


def test_the_same_model_is_no_sample() -> None:
    report = sure(0.0, 0.02)
    assert verdict(exam(worse_by=0.0), report).verdict == "undecided"
    report["models"]["baseline"] = {"digest": "m"}
    assert verdict(exam(worse_by=0.0), report).verdict == "passed"
    assert verdict(exam(better_by=0.0), report).verdict == "failed"


def test_a_confidence_needs_a_distribution() -> None:
    report = sure(0.05, 0.02)
    del report["sets"][0]["against"]["baseline"]["quantiles"]
    with pytest.raises(ConfigInvalid, match="keeps no distribution"):
        verdict(exam(better_by=0.0), report)
    with pytest.raises(ConfigInvalid, match="keeps no distribution"):
        verdict(gate(measure="exams.accuracy", at_least=0.4, confidence=0.9), report)
    spread = NormalDist(0.5, 0.05)
    report["sets"][0]["values"]["model"]["quantiles"] = {f"{p:g}": spread.inv_cdf(p) for p in EVERY}
    assert verdict(gate(measure="exams.accuracy", at_least=0.4, confidence=0.9), report).passed


def test_a_figure_that_no_item_tells_is_undecided() -> None:
    result = verdict(
        gate(measure="exams.few_shot", against="baseline", confidence=0.9, worse_by=0), sure(0, 1)
    )
    assert (result.verdict, result.passed, result.items) == ("undecided", False, 0)
    assert "rests on 0 items" in result.text


def test_a_share_of_flips_is_judged_as_it_is() -> None:
    report = sure(0.03, 0.01, better="lower", measure="negative_flips")
    report["sets"][0]["values"] = {"model": None, "baseline": None}
    flips = gate(measure="exams.negative_flips", against="baseline", confidence=0.95, at_most=0.05)
    assert verdict(flips, report).passed
    result = verdict(flips.model_copy(update={"at_most": 0.04}), report)
    assert result.verdict == "undecided"


def test_figures_of_the_run() -> None:
    budget = gate(measure="run.device_hours", at_most=2.0)
    report = Report.model_validate(sure(0, 1))
    (within,) = judge([budget], report, known={"run.device_hours": Known(1.5)})
    assert within.passed
    (over,) = judge([budget], report, known={"run.device_hours": Known(2.5)})
    assert "FAILED: run.device_hours is 2.5 h, allowed at most 2 h" in over.text
    (unknown,) = judge([budget], report, known={"run.device_hours": Known(None, "no record has them")})
    assert (unknown.verdict, stopped([unknown])) == ("undecided", [unknown])
    assert "not known: no record has them" in unknown.text
