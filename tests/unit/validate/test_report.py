import json
import re
from pathlib import Path

import pytest

from tasks.validate import report
from tasks.validate.rules import Rule
from tasks.validate.suite import Outcome

EMPTY = Rule("empty", "blank", None, 0, "stop", "No text.")
LENGTH = Rule("length", "characters", 1, 9, "warn", "Too <long>.", 0.1)
LEAK = Rule("leakage", "leaked", None, 0, "stop", "It was trained on.")
NEWS = report.Checked(
    "news", "documents", "ab" * 32, 4,
    [Outcome(EMPTY, False, 4, 2, ("<b>k</b>", "l")), Outcome(LENGTH, False, 4, 1, ("m",))],
)  # fmt: skip
EXAM = report.Checked(
    "exam", "exams", "cd" * 32, 3, [Outcome(LEAK, False, 3, 1, ("q",))], {"news": 1, "chats": 0}
)
FINE = report.Checked("fine", "documents", "ef" * 32, 4, [Outcome(EMPTY, True, 4, 0, ())])


@pytest.mark.parametrize(
    ("datasets", "figure"),
    [
        ([FINE], "0 stops, 0 warnings in 1 rules"),
        ([NEWS, FINE], "1 stop, 1 warning in 3 rules"),
        ([NEWS, EXAM, FINE], "2 stops, 1 warning in 4 rules"),
    ],
)
def test_figure(datasets, figure):
    assert report.figure(datasets) == figure


def test_the_complaint_names_dataset_rule_count_keys_and_reason():
    lines = report.complaint([NEWS, EXAM, FINE], Path("/w/validation")).splitlines()
    assert lines[1:3] == [
        "  news: empty: 2 of 4 rows, first keys: <b>k</b>, l. No text.",
        "  exam: leakage: 1 of 3 rows, first keys: q, found in: news (1). It was trained on.",
    ]
    assert "length" not in "".join(lines)
    assert lines[-1].endswith("/w/validation/page.html")


def test_the_json_has_counts_shares_and_keys(tmp_path):
    report.write([NEWS, EXAM], tmp_path)
    found = json.loads((tmp_path / "result.json").read_text())
    assert (found["stops"], found["warnings"]) == (2, 1)
    assert found["datasets"][0]["rules"][0] == {
        "rule": "empty", "severity": "stop", "passed": False, "checked": 4, "failed": 2, "share": 0.5,
        "tolerated": 0.0, "limits": [None, 0], "first_keys": ["<b>k</b>", "l"], "reason": "No text.",
    }  # fmt: skip
    assert found["datasets"][1]["leaked_into"] == {"news": 1, "chats": 0}


def test_the_page_escapes_keys_loads_nothing_and_has_a_dark_side(tmp_path):
    report.write([NEWS, EXAM, FINE], tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert "<b>k</b>" not in page
    assert "&lt;b&gt;k&lt;/b&gt;" in page
    assert "Too &lt;long&gt;." in page
    assert "1 rows stand in <b>news</b>" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://|src=|<script|url\(", page)
    assert [page.count(f"<tr class={state}>") for state in ("passed", "warning", "stop")] == [1, 1, 2]
