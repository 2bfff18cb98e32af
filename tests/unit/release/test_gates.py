from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.recipe.failures import ConfigInvalid, Failure
from tasks.recipe.models import Gate
from tasks.release.gates import GateResult, failure, judge, stopped
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
