"""What each training did and needed, as its log tells it, for the report."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from tasks.stage import Input

MIB = 2**20


def read_training(log: Input) -> dict[str, Any] | None:
    """The facts of a training, or None where its log is of before they were kept.

    Returns:
        `objective`, `device`, `processes`, what `tasks.training.preflight` found before the first step
        (samples, tokens, optimiser steps, memory, disk), and `rows_kept` and `rows_dropped` where rows were
        rendered.
    """
    header = log.path / "header.json"
    if not header.is_file():
        return None
    told = json.loads(header.read_text(encoding="utf-8"))
    if "needs" not in told:
        return None
    facts: dict[str, Any] = {
        "objective": told["objective"],
        "device": told["device"],
        "processes": told["world_size"],
        **told["needs"],
    }
    masks = log.path / "mask_report.json"
    if masks.is_file():
        rows = json.loads(masks.read_text(encoding="utf-8"))
        facts |= {"rows_kept": rows["kept"], "rows_dropped": rows["rows"] - rows["kept"]}
    return facts


def trainings_table(trainings: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each training, as HTML; nothing where there is none."""
    if not trainings:
        return ""
    head = (
        *("step", "rows", "samples", "tokens", "seen before", "optimiser steps"),
        *("parameters trained", "memory per process", "checkpoints"),
    )
    lines = ["".join(f'<th scope="col">{each}</th>' for each in head)]
    for step, facts in trainings.items():
        rows = f"{facts['rows_kept']:,}" if "rows_kept" in facts else ""
        left_out = f"<small>{facts['rows_dropped']:,} left out</small>" if facts.get("rows_dropped") else ""
        parts = {name: size for name, size in facts["memory_bytes"].items() if size}
        cells = (
            f"{html.escape(step)}<small>{html.escape(facts['objective'])}</small>",
            f"{rows}{left_out}",
            f"{facts['samples']:,}",
            f"{facts['tokens']:,}",
            f"{facts['repeated_share']:.0%}",
            f"{facts['optimiser_steps']:,}<small>{facts['tokens_per_step']:,} tokens each</small>",
            f"{facts['trained_parameters']:,}<small>of {facts['parameters']:,}</small>",
            f"{sum(parts.values()) / MIB:,.0f} MiB<small>"
            + "<br>".join(f"{html.escape(name)} {size / MIB:,.0f}" for name, size in parts.items())
            + f"</small><small>{facts['processes']} on {html.escape(facts['device'])}</small>",
            f"{facts['checkpoint_bytes'] / MIB:,.0f} MiB",
        )
        lines.append("".join(f"<td>{cell}</td>" for cell in cells))
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>{table}</table></div>'
