from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.release.gates import GateResult
from tasks.release.records import Report, StepRecord
from tasks.release.summary import changes, gate_table, regressions, summary


def record(step: str, cached: bool, *reasons: str) -> StepRecord:
    return StepRecord(
        fingerprint="f", step=step, stage="s", method="m", outputs={}, cached=cached, reasons=list(reasons)
    )


def test_changes_name_what_ran_and_count_the_rest() -> None:
    records = [
        record("a", True, "hit"),
        record("b", False, "options.lr changed", "code changed"),
        record("c", False),
    ]
    assert changes(records) == [
        ("b", "options.lr changed; code changed"),
        ("c", "ran"),
        ("1 of 3 steps", "unchanged (a)"),
    ]


def test_the_table_has_every_figure(make_report: Callable[..., dict[str, Any]]) -> None:
    report = Report.model_validate(make_report(relative=-0.2, champion=None))
    text = summary("pydocs 1.0.0 waits", report, [], [record("b", False, "new data")], ["recipe pydocs"])
    row = next(line for line in text.splitlines() if line.startswith("| news"))
    assert "2 [1.9, 2.1]" in row
    assert "-0.4 [-0.5, -0.3], -20.0%" in row
    assert row.endswith("| - |")
    assert text.startswith("# pydocs 1.0.0 waits\n\n- recipe pydocs\n")
    assert "The recipe has no gates" in text
    assert "- **b**: new data" in text


def test_the_verdicts_come_first(make_report: Callable[..., dict[str, Any]]) -> None:
    report = Report.model_validate(make_report(relative=-0.2, champion=None))
    text = summary("pydocs 1.0.0 waits", report, [gate("fine", "passed"), gate("bad", "failed")], [], [])
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# pydocs 1.0.0 waits",
        *("## Gates: 1 passed, 1 failed", "## Regressions", "## Differences", "## What changed and why"),
    ]


def gate(name: str, verdict: str, **more: Any) -> GateResult:
    fields: dict[str, Any] = {
        "gate": name,
        "measure": "news.bits_per_byte",
        "passed": verdict == "passed",
        "severity": "stop",
        "value": -0.2,
        "low": -0.3,
        "high": -0.1,
        "threshold": -0.15,
        "text": "told",
        "verdict": verdict,
        "against": "baseline",
        "change": True,
        "percent": True,
        "items": 1200,
        "reason": "It must | learn.",
    }
    return GateResult(**fields | more)


def test_gates_are_a_table_with_what_stops_the_release_first() -> None:
    rows = gate_table(
        [gate("fine", "passed"), gate("bad", "failed"), gate("soft", "failed", severity="warn")]
    )
    assert rows[2].startswith("| ✗ failed | **bad** (news.bits_per_byte) | -20.0% [-30.0%, -10.0%] against")
    assert rows[2].endswith("at most -15.0% | 1,200 | It must / learn. |")
    assert [row.split("**")[1] for row in rows[2:]] == ["bad", "soft", "fine"]
    assert "only warns" in rows[3]


def test_an_unknown_figure_is_said_to_be_unknown() -> None:
    assert "| not known |" in gate_table([gate("cost", "undecided", value=None, measure="run.cost")])[2]


def test_regressions_name_what_got_worse_than_the_champion_the_sure_first(
    make_report: Callable[..., dict[str, Any]],
) -> None:
    worse = make_report(champion=0.1)
    unsure = make_report(champion=0.01)["sets"][0] | {"name": "old"}
    report = Report.model_validate(worse | {"sets": [unsure, *worse["sets"]]})
    first, second = regressions(report)
    assert first.startswith("- **news**, bits per byte: worse by +0.2 [")
    assert second.startswith("- **old**, bits per byte: perhaps worse")


def test_without_a_champion_the_base_is_the_measure(make_report: Callable[..., dict[str, Any]]) -> None:
    report = Report.model_validate(make_report(relative=-0.2, champion=None))
    assert regressions(report) == ["Nothing that was measured is worse than the base."]
