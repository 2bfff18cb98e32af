"""A report takes in what probes found: their figures under their steps' names, items, samples, gates."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet
import pytest

from tasks.evaluate import METHODS
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import Gate
from tasks.release.gates import judge
from tasks.release.records import Report
from tasks.stage import Input
from tests.conftest import new_context, tiny_texts

TEXTS = [{"key": str(i), "text": text} for i, text in enumerate(tiny_texts(12))]


@pytest.fixture
def models(tiny_model_dir, tiny_model_like) -> dict[str, Input]:
    return {
        "model": Input("merged", "m" * 64, "model", tiny_model_dir),
        "baseline": Input("base", "b" * 64, "model", tiny_model_like(1)),
    }


@pytest.fixture
def probes(models, write_rows, tmp_path, tiny_model_like) -> list[Input]:
    """What steps contamination (with a baseline) and spectrum (with an origin of its own) found."""
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "contamination": (
            "membership",
            {
                **models,
                "suspects": ("documents", write_rows("suspects", TEXTS[:6])),
                "after": ("documents", write_rows("after", TEXTS[6:])),
            },
        ),
        "spectrum": (
            "intruders",
            {"model": models["model"], "origin": Input("o", "o" * 64, "model", tiny_model_like(2))},
        ),
    }
    found = []
    for step, (name, inputs) in asked.items():
        context = new_context(tmp_path / step, inputs, step=step)
        METHODS[name].run(context, METHODS[name].options())
        found.append(Input(step, step[0] * 64, "probe", context.output("probe")))
    return found


def test_a_gate_names_a_figure_of_a_probe(models, probes, write_rows, tmp_path):
    inputs = {**models, "documents": ("documents", write_rows("news", TEXTS)), "probes": probes}
    context = new_context(tmp_path / "report", inputs, step="report")
    METHODS["suite"].run(context, METHODS["suite"].options())
    out = context.output("report")
    report = json.loads((out / "report.json").read_text())
    names = {f"{entry['name']}.{entry['measure']}" for entry in report["sets"]}
    assert {"news.bits_per_byte", "contamination.auc", "contamination.flagged", "spectrum.share"} <= names
    (items,) = (out / "items").glob("contamination*.parquet")
    assert len(pyarrow.parquet.read_table(items)) == 12
    gates = [
        {"measure": "contamination.auc", "against": "baseline", "at_most": 9.0, "confidence": 0.95},
        {"measure": "contamination.flagged", "at_most": 9.0, "confidence": 0.95},
        {"measure": "spectrum.share", "at_most": 1.0, "confidence": 0.95},
        {"measure": "spectrum.intruders", "at_most": -1.0},
    ]
    rules = [Gate.model_validate({"gate": f"g{at}", "reason": "r", **gate}) for at, gate in enumerate(gates)]
    verdicts = [result.verdict for result in judge(rules, Report.model_validate(report))]
    assert verdicts == ["passed", "passed", "passed", "failed"]


def test_a_probe_of_another_model_is_refused(models, probes, tmp_path):
    other = {"model": models["baseline"], "probes": probes}
    context = new_context(tmp_path / "report", other, step="report")
    with pytest.raises(ConfigInvalid, match="'merged' as its model, the report has 'base'"):
        METHODS["suite"].run(context, METHODS["suite"].options())
