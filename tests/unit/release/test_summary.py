from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.release.records import Report, StepRecord
from tasks.release.summary import changes, summary


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
    assert "The recipe has no gates." in text
    assert "- **b**: new data" in text
