"""The demo's display: what is known of a task, in one line."""

from __future__ import annotations

import datetime
import io
from typing import Any

import pytest
from rich.console import Console

from tasks.local.progress import Display, Row, line, row

NOW = datetime.datetime(2026, 1, 1, 12, 1, 0, tzinfo=datetime.UTC)
BEGAN = "2026-01-01T12:00:00Z"


def task(state: str | None, **more: Any) -> dict[str, Any]:
    return {"state": state, "start_date": BEGAN, "end_date": None} | more


def test_a_running_step_shows_its_own_progress() -> None:
    found = row("base", task("running"), None, {"done": 0.5, "figure": "loss 4.2"}, NOW)
    assert found == Row("base", "running", 0.5, 60.0, "loss 4.2")
    assert line(found).split() == ["base", "running", "50%", "60", "s", "loss", "4.2"]


def test_a_finished_step_shows_its_records_figure() -> None:
    ended = task("success", end_date="2026-01-01T12:00:30+00:00")
    found = row("base", ended, {"figure": "loss 4.1", "cached": False}, {"done": 0.9, "figure": "old"}, NOW)
    assert found == Row("base", "done", 1.0, 30.0, "loss 4.1")


def test_a_cache_hit_is_told_apart() -> None:
    assert row("base", task("success"), {"figure": "loss 4.1", "cached": True}, None, NOW).state == "cached"


@pytest.mark.parametrize(
    ("state", "words"),
    [(None, "waiting"), ("up_for_retry", "tries again"), ("awaiting_input", "asks"), ("failed", "failed")],
)
def test_states_are_words(state: str | None, words: str) -> None:
    assert row("base", task(state), None, None, NOW).state == words


def test_a_task_the_run_does_not_know_yet_waits() -> None:
    assert row("base", None, None, None, NOW) == Row("base", "waiting", 0.0, None, "")


def shown(*each: list[Row], terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    with Display(console) as display:
        for rows in each:
            display.show(rows)
    return text.getvalue()


def test_off_a_terminal_each_change_is_one_line() -> None:
    slow, fast = Row("base", "running", 0.31, 1.0, "loss 5"), Row("base", "running", 0.39, 2.0, "loss 4")
    text = shown(
        [Row("base", "waiting", 0.0, None, "")],
        [slow],
        [fast],
        [Row("base", "done", 1.0, 3.0, "loss 3")],
        terminal=False,
    )
    assert [each.split()[1] for each in text.splitlines()] == ["running", "done"]


def test_on_a_terminal_the_table_shows_every_step() -> None:
    text = shown(
        [Row("base", "running", 0.5, 1.0, "loss 5"), Row("late", "waiting", 0, None, "")], terminal=True
    )
    assert "loss 5" in text
    assert "late" in text
