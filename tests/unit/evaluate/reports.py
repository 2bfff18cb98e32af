"""A report of everything that a page can show, from simulated columns by the code that makes real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from tasks.evaluate.changed import changed_entries, write_changed
from tasks.evaluate.manifest import Task, digest, of_report
from tasks.evaluate.measure import Array, Columns, Measure
from tasks.evaluate.measures import bits_per_byte, multiple_choice
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.report import Measured, entries, write_json
from tasks.stage import Input

OPTIONS = SuiteOptions(resamples=500)
GROUPS = ("British", "Indian", "Nigerian")


@dataclass(frozen=True)
class Row:
    """An item with a text."""

    key: str
    group: str = ""
    question: str = ""
    answer: int = 0
    options: Sequence[str] = ()
    text: str = ""


def make(folder: Path, *, champion: bool = True) -> dict[str, Any]:
    """report.json, its restricted tables below `folder`; the candidate is better on news, worse on old."""
    generator = numpy.random.default_rng(0)
    roles = ("model", "baseline", "champion") if champion else ("model", "baseline")
    tasks = [
        _documents("news_heldout", generator, 40, dict(zip(roles, (-0.2, 0.0, -0.17), strict=False))),
        _documents(
            "general_heldout", generator, 300, dict(zip(roles, (0.03, 0.0, 0.025), strict=False)), True
        ),
        _exams("exams_news", generator, 171, dict(zip(roles, (0.08, 0.0, 0.06), strict=False))),
        _exams("exams_general", generator, 382, dict(zip(roles, (-0.05, 0.0, 0.0), strict=False)), True),
    ]
    sets = [entry for each in tasks for entry in entries(each, OPTIONS, 0)]
    for each in tasks:
        write_changed(folder / "restricted", [each])
    sets += [
        {**entry, "name": "hidden"}
        for entry in entries(_exams("hidden", generator, 60, {"model": 0.1, "baseline": 0.0}), OPTIONS, 0)
        if entry["measure"] == "accuracy"
    ]
    (folder / "restricted").mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "restricted" / "hidden.json",
        {"samples": [{"prompt": "The <secret> of Ada is", "text": "4711 & 'more'"}]},
    )
    manifest = of_report([each.task for each in tasks], OPTIONS, 0)
    models: dict[str, Any] = {
        "model": {"digest": "a1b2c3" * 10, "ref": "merged"},
        "baseline": {"digest": "d4e5f6" * 10, "ref": "base"},
        "champion": {"digest": "0f1e2d" * 10, "ref": "champion"} if champion else None,
    }
    return {
        "schema": 2,
        "models": models,
        "sets": sets,
        "probes": {"hidden": {"probe": "canaries", "notes": ["20 secrets planted <once> each"]}},
        "changed": [entry for each in tasks for entry in changed_entries(each)],
        "trainings": {"adapted": TRAINING},
        "manifest": manifest,
        "manifest_digest": digest(manifest),
        "measured": {},
    }


def logs() -> dict[str, list[tuple[float, float]]]:
    """Loss curves of four trainings."""
    generator = numpy.random.default_rng(1)
    found = {}
    for name, start, end, points in (
        ("base", 8.3, 4.9, 400),
        ("adapted", 5.5, 3.8, 300),
        ("tuned", 5.7, 5.5, 75),
        ("aligned", 0.69, 0.68, 60),
    ):
        steps = numpy.arange(points)
        loss = end + (start - end) * numpy.exp(-4 * steps / points) + generator.normal(0, 0.05, points)
        found[name] = [
            (float(2044 * (step + 1)), float(value)) for step, value in zip(steps, loss, strict=True)
        ]
    return found


def _documents(
    name: str,
    generator: numpy.random.Generator,
    items: int,
    changes: Mapping[str, float],
    grouped: bool = False,
) -> Measured:
    bytes_N = generator.lognormal(6.5, 1.0, items).round()
    rate_N = generator.normal(1.6, 0.3, items)
    columns: dict[str, Columns] = {
        role: {"nats": bytes_N * (rate_N * (1 + change) + generator.normal(0, 0.04, items)), "bytes": bytes_N}
        for role, change in changes.items()
    }
    rows = [Row(f"doc/{number}", GROUPS[number % 3] if grouped else "") for number in range(items)]
    return _measured(name, bits_per_byte.MEASURE, rows, columns)


def _exams(
    name: str,
    generator: numpy.random.Generator,
    items: int,
    changes: Mapping[str, float],
    grouped: bool = False,
) -> Measured:
    ability_N = generator.normal(0, 1, items)
    columns: dict[str, Columns] = {}
    for role, change in changes.items():
        right_N = (ability_N + 3 * change + generator.normal(0, 0.4, items) > 0.3).astype(float)
        columns[role] = {column: right_N for column in ("right", "right_unnormalised")} | _chances(right_N)
    rows = [
        Row(
            f"exams/{number}",
            GROUPS[number % 3] if grouped else "",
            f"What is <{number}>?",
            number % 4,
            ["one", "two", "three & four", "five"],
        )
        for number in range(items)
    ]
    return _measured(name, multiple_choice.MEASURE, rows, columns)


def _chances(right_N: Array) -> dict[str, Array]:
    """The further columns of multiple choice, as far as its figures need them."""
    return {
        "confidence": 0.4 + 0.3 * right_N,
        "brier": 1 - 0.8 * right_N,
        "choice": 3 - right_N,
    }


def _measured(name: str, measure: Measure, rows: Sequence[Row], columns: Mapping[str, Columns]) -> Measured:
    item = Input(f"data.{name}", "0" * 64, "exams", Path())
    return Measured(Task("port", measure, item, list(rows)), columns)


TRAINING: dict[str, Any] = {
    "objective": "causal_lm",
    "device": "cpu",
    "processes": 1,
    "samples": 2400,
    "tokens": 613_044,
    "repeated_share": 0.75,
    "optimiser_steps": 300,
    "tokens_per_step": 2043,
    "parameters": 2_557_632,
    "trained_parameters": 2_557_632,
    "memory_bytes": {"weights": 10_230_528, "optimiser": 20_461_056},
    "checkpoint_bytes": 92_074_752,
}
