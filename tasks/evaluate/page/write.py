"""Writes the report's pages beside the tables that they are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.evaluate.page.document import page
from tasks.evaluate.page.flips import read_changed
from tasks.evaluate.page.parts import RESTRICTED
from tasks.evaluate.page.restricted import restricted


def write_pages(
    out: Path, report: Mapping[str, Any], logs: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Write `report.html`, and `restricted.html` where there are texts to show.

    Args:
        out: The report's directory, with `restricted/` (tables of items, samples of probes) where it has one.
        report: The content of report.json.
        logs: Training step -> (tokens, loss) points.
    """
    names = dict.fromkeys(entry["name"] for entry in report["sets"])
    changed = read_changed(out / "restricted", names)
    samples = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["samples"]
        for path in sorted((out / "restricted").glob("*.json"))
    }
    shown = bool(changed or samples)
    (out / "report.html").write_text(page(report, logs, restricted=shown), encoding="utf-8")
    if shown:
        (out / RESTRICTED).write_text(restricted(report, changed, samples), encoding="utf-8")
