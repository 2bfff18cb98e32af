"""What the suite refuses: broken sets, by name and line, and recipes that make no sense."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.evaluate.options import SuiteOptions
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.stage import Input
from tests.unit.evaluate.suite_rows import EXAMS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "empty"),
        ([{**EXAMS[0], "answer": 3}], "answer 3 is not the index of one of 3"),
        ([{**EXAMS[0], "answer": -1}], "answer -1"),
        ([{**EXAMS[0], "answer": True}], "answer True"),
        ([{**EXAMS[0], "options": ["one"]}], "two or more options"),
        ([{**EXAMS[0], "options": ["one", ""]}], "empty"),
        ([{"key": "k", "options": ["one", "two"], "answer": 0}], "line 1 .*no question"),
    ],
)
def test_broken_exams_are_named(rows, message: str, evaluate, inputs, write_rows):
    inputs["exams"] = [Input("data.bad", "x", "exams", write_rows("bad", rows))]
    with pytest.raises(DataInvalid, match=f"data.bad.*{message}"):
        evaluate(inputs)


@pytest.mark.parametrize(
    ("rows", "message"), [([], "is empty"), ([{"key": "k", "text": ""}], "'k'. has no text")]
)
def test_broken_documents_are_named(rows, message: str, evaluate, inputs, write_rows):
    inputs["documents"] = [Input("data.bad", "x", "documents", write_rows("bad", rows))]
    with pytest.raises(DataInvalid, match=f"data.bad.*{message}"):
        evaluate(inputs)


def test_a_line_cut_short_is_named(evaluate, inputs, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"key": "a", "text": "b"}\n{"key": "a", "te')
    inputs["documents"] = [Input("data.cut", "x", "documents", tmp_path)]
    with pytest.raises(DataInvalid, match=r"data\.cut.*line 2"):
        evaluate(inputs)


def test_bytes_that_are_not_utf8_are_named(evaluate, inputs, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"key": "a", "text": "\xff"}\n')
    inputs["documents"] = [Input("data.latin", "x", "documents", tmp_path)]
    with pytest.raises(DataInvalid, match=r"data\.latin.*line 1"):
        evaluate(inputs)


def test_wrong_recipes_are_refused(evaluate, inputs):
    with pytest.raises(ConfigInvalid, match="something to measure"):
        evaluate({"model": inputs["model"]})
    with pytest.raises(ConfigInvalid, match="two sets are called 'news'"):
        evaluate({**inputs, "exams": [Input("data.news", "x", "exams", inputs["exams"][0].path)]})
    with pytest.raises(ConfigInvalid, match="exam_prompt"):
        evaluate(inputs, exam_prompt="Answer:")
    with pytest.raises(ConfigInvalid, match=r"options\.shots .* inputs\.exams"):
        evaluate({port: inputs[port] for port in ("model", "documents")}, shots=[0, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": [2]}, "two or more"),
        ({"shots": [2, 1]}, "rising"),
        ({"shots": [1, 7]}, "7 is none of"),
        ({"wordings": ["{question}"]}, "no spread"),
        ({"wordings": ["{question}", "Say:"]}, "must contain {question}"),
        ({"wordings": ["{question}", "{question}"]}, "twice"),
        ({"wordings_unseen": ["{question}"]}, "nothing to be compared with"),
    ],
)
def test_options_without_an_effect_are_refused(options, message: str):
    with pytest.raises(ValidationError, match=re.escape(message)):
        SuiteOptions.model_validate(options)
