"""A whole evaluation of three tiny models, as tests of the suite run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.evaluate import METHODS
from tasks.stage import Input, Result
from tests.unit.evaluate.suite_rows import DOCUMENTS, EXAMS, LOG


@pytest.fixture
def inputs(tiny_model_dir: Path, tiny_model_like: Callable[..., Path], write_rows, tmp_path: Path):
    log = tmp_path / "adapted"
    log.mkdir()
    (log / "training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LOG))
    return {
        "model": [Input("merged", "m" * 64, "model", tiny_model_dir)],
        "baseline": [Input("base", "b" * 64, "model", tiny_model_like(1))],
        "champion": [Input("champion", "c" * 64, "model", tiny_model_like(2))],
        "documents": [Input("data.news", "n" * 64, "documents", write_rows("news", DOCUMENTS))],
        "exams": [Input("data.exams", "e" * 64, "exams", write_rows("exams", EXAMS))],
        "logs": [Input("adapted.log", "l" * 64, "training_log", log)],
    }


@pytest.fixture
def evaluate(make_context, tmp_path: Path):
    def run(inputs, name: str = "run", **options) -> tuple[Path, Result]:
        context = make_context(inputs, directory=tmp_path / name, step="report")
        method = METHODS["suite"]
        return tmp_path / name / "outputs/report", method.run(
            context, method.options.model_validate({"resamples": 200, **options})
        )

    return run
