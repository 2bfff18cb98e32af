"""The time of a token: a metric of the step, from the recipe's gate to the verdict, and in no artefact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate import METHODS
from tasks.evaluate.latency import ROUNDS, latencies
from tasks.evaluate.scoring import load_subject
from tasks.recipe.gate_sets.expand import Evidence, expanded
from tasks.recipe.models import Release
from tasks.release.costs import known_figures
from tasks.release.gates import judge
from tasks.release.records import Output, PlanFacts, ReleaseRules, Report, StepRecord
from tasks.stage import Input

DOCUMENTS = [{"key": f"d{i}", "text": "the value of an object"} for i in range(3)]


def ticks(*durations: float) -> Iterator[float]:
    """A clock that is read before and after each of these."""
    now = 0.0
    for duration in durations:
        yield now
        now += duration
        yield now


def test_the_median_of_rounds_without_the_first(tiny_model_dir: Path) -> None:
    subject = load_subject(Input("m", "m" * 64, "model", tiny_model_dir), 256)
    rounds = [(100.0, 100.0), (1.0, 2.0), (1.2, 2.2), (50.0, 2.4)]
    clock = ticks(*(each for pair in rounds for each in pair))
    found = latencies({"a": subject, "b": subject}, 4, rounds=3, clock=lambda: next(clock))
    assert found == pytest.approx({"a": 1000 * 1.2 / 4, "b": 1000 * 2.2 / 4})
    assert ROUNDS % 2


def test_it_is_measured_only_where_asked_and_stays_out_of_the_report(
    make_context: Callable[..., Any],
    write_rows: Callable[..., Path],
    tiny_model_dir: Path,
    tiny_model_like: Callable[..., Path],
    tmp_path: Path,
) -> None:
    inputs = {
        "model": [Input("merged", "m" * 64, "model", tiny_model_dir)],
        "champion": [Input("champion", "c" * 64, "model", tiny_model_like(1))],
        "documents": [Input("data.news", "n" * 64, "documents", write_rows("news", DOCUMENTS))],
    }
    method = METHODS["suite"]
    found = {}
    for name, tokens in (("without", 0), ("timed", 4)):
        context = make_context(inputs, directory=tmp_path / name, step="report")
        options = method.options.model_validate({"resamples": 100, "latency_tokens": tokens})
        metrics = method.run(context, options).metrics
        found[name] = {each: value for each, value in metrics.items() if "latency" in each}
    assert found["without"] == {}
    assert set(found["timed"]) == {"latency_ms", "latency_ms.champion"}
    assert all(value > 0 for value in found["timed"].values())
    reports = [(tmp_path / name / "outputs/report/report.json").read_bytes() for name in found]
    assert reports[0] == reports[1], "no wall-clock time in what is compared by digest"
    assert verdict_of({}, 20.0) == "undecided"
    assert verdict_of(found["timed"], 60_000.0) == "passed"
    assert verdict_of(found["timed"], 1e-6) == "failed"


def verdict_of(metrics: Mapping[str, float], limit: float) -> str:
    """What the gate of the shipped set `budget` makes of the report step's metrics."""
    sets = {"budget": {"latency_ms": limit}}
    release = Release.model_validate({"candidate": "merged", "report": "report", "gate_sets": sets})
    gates = expanded(release, Evidence({}, []))
    plan = PlanFacts(
        run="r",
        recipe="p",
        model="p",
        intent="i",
        release=ReleaseRules(candidate="merged", report="report", gates=gates),
    )
    records = {
        name: StepRecord(
            fingerprint="f",
            step=name,
            stage="s",
            method="m",
            outputs={kind: Output(digest=name, kind=kind)},
            metrics=dict(metrics) if name == "report" else {},
        )
        for name, kind in (("merged", "model"), ("report", "report"))
    }
    (result,) = judge(gates, Report(sets=[]), known=known_figures(plan, records))
    return result.verdict
