"""The manifest: whatever the scores depend on changes it, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate import manifest
from tasks.evaluate.manifest import Task, digest, of_report, of_task
from tasks.evaluate.measures import PORTS
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Exam
from tasks.stage import Input

MEASURES = {each.name: each for measures in PORTS.values() for each in measures}
ROWS = [Exam("a", "Which?", ("x", "y"), 0), Exam("b", "Who?", ("x", "y"), 1)]
PLAIN: dict[str, Any] = {"shots": [0, 1], "wordings": ["{question}", "Q {question}"]}


def task(measure: str = "few_shot", rows: list[Exam] = ROWS, item: str = "d" * 64) -> Task:
    return Task("exams", MEASURES[measure], Input("data.exam", item, "exams", Path()), rows)


def frozen(given: Task, seed: int = 0, **options: Any) -> str:
    return digest(of_task(given, SuiteOptions(**{**PLAIN, **options}), seed))


@pytest.mark.parametrize(
    ("measure", "options"),
    [
        ("multiple_choice", {"exam_prompt": "Q: {question}"}),
        ("few_shot", {"shots": [0, 2]}),
        ("wording", {"wordings": ["{question}", "Say {question}"]}),
        ("closed_book", {"question_prompt": "Q: {question}"}),
        ("refusal", {"refusal_phrases": ["no"]}),
        ("multiple_choice", {"max_length": 64}),
    ],
)
def test_a_changed_option_that_scores_depend_on_is_another_manifest(measure: str, options: dict[str, Any]):
    assert frozen(task(measure)) != frozen(task(measure), **options)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_tokens": 7}, {"confidence": 0.9}])
def test_what_scores_do_not_depend_on_is_not_in_it(options: dict[str, Any]):
    assert frozen(task()) == frozen(task(), **options)
    assert frozen(task("multiple_choice")) == frozen(task("multiple_choice"), shots=[1, 2])


def test_the_items_count_and_not_where_they_lie():
    assert frozen(task()) == frozen(task(item="e" * 64))
    for rows in (ROWS[:1], ROWS[::-1], [ROWS[0], Exam("b", "Who?", ("x", "y"), 0)]):
        assert frozen(task()) != frozen(task(rows=rows))


def test_a_seed_a_version_and_every_policy_is_in_it(monkeypatch: pytest.MonkeyPatch):
    found = {frozen(task()), frozen(task(), seed=1)}
    for name, value in (("PREFIX", "none"), ("BATCHES", "as they come"), ("VERSION", 0)):
        with monkeypatch.context() as changed:
            changed.setattr(manifest, name, value)
            found.add(frozen(task()))
    monkeypatch.setitem(vars(MEASURES["few_shot"]), "version", 99)
    found.add(frozen(task()))
    assert len(found) == 6


def test_the_report_says_what_was_frozen_for_each_task():
    first = task("multiple_choice")
    second = Task("exams", MEASURES["few_shot"], first.item, ROWS)
    found = of_report([first, second], SuiteOptions(**PLAIN), 5)
    measures = found["sets"]["exam"]["measures"]
    assert measures["few_shot"]["few_shot_seed"] == 5
    assert "few_shot_seed" not in measures["multiple_choice"]
    assert measures["few_shot"]["templates"] == measures["multiple_choice"]["templates"]
    assert {"version", "templates"} <= set(measures["multiple_choice"])
    assert len(found["sets"]["exam"]["items_digest"]) == 64
    assert {"dtype", "prefix", "batch_policy", "batches"} <= set(found)
