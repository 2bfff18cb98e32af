"""The demo's display: a line for each task of a run, with state, time and the step's main figure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

WORDS: Mapping[str, str] = {
    "none": "waiting",
    "scheduled": "queued",
    "queued": "queued",
    "running": "running",
    "success": "done",
    "failed": "failed",
    "up_for_retry": "tries again",
    "awaiting_input": "asks",
    "skipped": "skipped",
    "upstream_failed": "not run",
}
"""Airflow's states, in words for the display."""

COLOURS: Mapping[str, str] = {
    "running": "bold cyan",
    "done": "green",
    "cached": "green",
    "asks": "bold yellow",
    "failed": "bold red",
    "tries again": "yellow",
}


@dataclass(frozen=True)
class Row:
    """One task: its state in words, how far it is (0 to 1), seconds so far, and its main figure."""

    name: str
    state: str
    done: float
    seconds: float | None
    figure: str


def row(
    name: str,
    task: Mapping[str, Any] | None,
    record: Mapping[str, Any] | None,
    live: Mapping[str, Any] | None,
    now: datetime.datetime,
) -> Row:
    """What is known of a task as a row.

    Args:
        name: The task.
        task: Airflow's view of it, or None before the run knows it.
        record: The run's record of the step, once it has ended.
        live: The step's own progress: `done` (0 to 1) and `figure`.
        now: The time, for what is still running.
    """
    task, live = task or {}, live or {}
    state = WORDS.get(str(task.get("state") or "none"), str(task.get("state")))
    if state == "done" and record is not None and record.get("cached"):
        state = "cached"
    if state in ("done", "cached"):
        done, figure = 1.0, str((record or {}).get("figure", ""))
    else:
        done, figure = float(live.get("done", 0.0)), str(live.get("figure", ""))
    begin = _time(task.get("start_date"))
    end = _time(task.get("end_date")) or now
    seconds = max(0.0, (end - begin).total_seconds()) if begin and state != "skipped" else None
    return Row(name, state, done, seconds, figure)


class Display:
    """Shows rows: a table that changes on a terminal, a line for each change anywhere else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._shown: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, rows: Sequence[Row]) -> None:
        """Show the rows as they are now."""
        if self._console.is_terminal:
            self._live.update(_table(rows))
            return
        for each in rows:
            seen = (each.state, int(each.done * 10))
            if each.state != "waiting" and self._shown.get(each.name) != seen:
                self._shown[each.name] = seen
                self._console.print(line(each), highlight=False, markup=False)


def line(each: Row) -> str:
    """A row as one line of text."""
    share = f"{each.done:4.0%}" if each.state == "running" and each.done else "    "
    return f"{each.name:<16} {each.state:<11} {share} {_seconds(each.seconds):>6}  {each.figure}".rstrip()


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for each in rows:
        colour = COLOURS.get(each.state, "dim")
        bar = ProgressBar(total=1.0, completed=each.done, width=20) if each.state == "running" else ""
        table.add_row(
            each.name, f"[{colour}]{each.state}[/{colour}]", bar, _seconds(each.seconds), each.figure
        )
    return table


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _time(text: Any) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(str(text).replace("Z", "+00:00")) if text else None
