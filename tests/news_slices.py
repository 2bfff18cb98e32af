"""Three dated slices of the demo's news: the topics of Python's language reference, a third of them a week.

They stand for a news site that publishes weekly: `write_slice(folder, number)` is the arrival of a week's
file, in the place that `corpus_file` describes. tests/recipes/news.yaml learns from the newest.
"""

from __future__ import annotations

import json
from pathlib import Path

from tasks.sources import pydocs
from tasks.sources.splits import number_of

DATES = ("2026-01-05", "2026-01-12", "2026-01-19")


def write_slice(folder: Path, number: int) -> Path:
    """Write the slice of a week: 0, 1 or 2. A topic is always in the same one."""
    rows = [
        row
        for row in pydocs.rows("language-reference", "all", {})
        if number_of(f"week of {row['key']}") % len(DATES) == number
    ]
    path = folder / DATES[number] / "topics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def corpus_file(folder: Path, place: str) -> Path:
    """Describe the corpus `news` at a URI, in a folder for PERENNIAL_CORPORA."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "news.yaml"
    path.write_text(
        "corpus: news\n"
        "description: Topics of the language reference, a third of them a week.\n"
        f'uri: "{place}"\n'
        'cron: "0 2 * * 1"\n'
        "model: news\n"
        "owner: tests\n"
        "limits: {near_duplicates: 0.9}\n",
        encoding="utf-8",
    )
    return path
