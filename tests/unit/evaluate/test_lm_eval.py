"""lm-eval's answers become a probe; what cannot be told honestly is refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from tasks.evaluate.measures import multiple_choice
from tasks.evaluate.methods import lm_eval
from tasks.evaluate.methods.lm_eval import SETTING, LmEvalOptions, measure_of, read_answer, task_of
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.probed import read_probe
from tasks.evaluate.rows import read_exams
from tasks.evaluate.scoring import load_subject
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.recipe.models import Gate
from tasks.release.gates import judge
from tasks.release.records import Report
from tasks.stage import Input

TASK = """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{options}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""


def answer(scores: list[Any], whole: float | None = None, **more: Any) -> dict[str, Any]:
    samples = [
        {
            "doc_id": i,
            "doc": {"key": f"k{i}", "group": "ab"[i % 2]},
            "filter": "none",
            "metrics": ["acc"],
            "acc": s,
        }
        for i, s in enumerate(scores)
    ]
    mean = sum(scores) / len(scores) if whole is None else whole
    return {
        "samples": {"t": samples[::-1]},
        "results": {"t": {"acc,none": mean}},
        "versions": {"t": 2.0},
        "higher_is_better": {"t": {"acc": True}},
        **more,
    }


def test_an_answer_gives_a_number_per_document_in_their_order():
    found = read_answer(answer([1.0, 0.0, 1.0]), "")
    assert found.scores_N.tolist() == [1.0, 0.0, 1.0]
    assert [(item.key, item.group) for item in found.items] == [("k0", "a"), ("k1", "b"), ("k2", "a")]
    assert (found.metric, found.better, found.version) == ("acc", "higher", "2.0")


@pytest.mark.parametrize(
    ("given", "metric", "trouble"),
    [
        (answer([1.0, 0.0]), "f1", "none of the task's: acc"),
        (answer([1.0, 0.0], whole=0.7), "", "no mean over its documents"),
        (answer([[1, 2]], whole=1.0), "", "no number per document"),
        (
            {**answer([1.0]), "samples": {"one": [], "two": []}},
            "",
            "a group; name one of its tasks.*one, two",
        ),
    ],
)
def test_what_is_no_mean_of_documents_is_refused(given, metric, trouble):
    with pytest.raises(ConfigInvalid, match=trouble):
        read_answer(given, metric)


def test_a_filter_of_answers_is_chosen_by_name():
    strict, loose = answer([1.0, 0.0]), answer([1.0, 1.0])
    samples = [
        {**each, "filter": name}
        for name, of in (("strict-match", strict), ("flexible-extract", loose))
        for each in of["samples"]["t"]
    ]
    results = {"t": {"acc,strict-match": 0.5, "acc,flexible-extract": 1.0}}
    both = {**strict, "samples": {"t": samples}, "results": results}
    assert read_answer(both, "").scores_N.tolist() == [1.0, 0.0]  # the task's first
    assert read_answer(both, "acc", "flexible-extract").scores_N.tolist() == [1.0, 1.0]
    with pytest.raises(ConfigInvalid, match=r"'none' is none of the task's: strict-match, flexible-extract"):
        read_answer(both, "", "none")


def test_a_task_without_documents_is_refused():
    with pytest.raises(DataInvalid, match="no documents"):
        read_answer({**answer([1.0]), "samples": {"t": []}}, "")


def test_where_lower_is_better_a_rise_is_a_negative_flip():
    lower = read_answer({**answer([1.0, 0.0]), "higher_is_better": {"t": {"acc": False}}}, "")
    negative = measure_of(lower).comparisons[0].of
    before, after = {"score": numpy.array([1.0, 0.0])}, {"score": numpy.array([2.0, 0.0])}
    assert negative(after, before, numpy.ones((1, 2))).tolist() == [0.5]
    assert negative(before, after, numpy.ones((1, 2))).tolist() == [0.0]


def test_a_task_is_put_over_the_rows(tmp_path):
    rows = Input("data.exam", "d", "exams", tmp_path)
    task = task_of(TASK, rows)
    assert task["dataset_kwargs"] == {"data_files": {"test": str(tmp_path / "rows.jsonl")}}
    assert (task["dataset_path"], task["test_split"], task["task"]) == ("json", "test", lm_eval.TASK)
    assert task["doc_to_target"] == "answer"


@pytest.mark.parametrize(
    ("text", "rows", "trouble"),
    [
        ("doc_to_text: !function utils.doc", True, "code of its own"),
        ("- a", True, "no doc_to_text"),
        ("include: other.yaml\ndoc_to_text: x", True, "includes another file"),
        ("doc_to_text: x\ndataset_path: squad", True, "its documents are inputs.rows"),
        ("doc_to_text: x", False, "no dataset_path"),
    ],
)
def test_a_text_that_is_no_plain_task_is_refused(tmp_path, text, rows, trouble):
    with pytest.raises(ConfigInvalid, match=trouble):
        task_of(text, Input("data.exam", "d", "exams", tmp_path) if rows else None)


@pytest.mark.parametrize("options", [{}, {"task": "arc_easy", "yaml": TASK}])
def test_there_is_one_task(options):
    with pytest.raises(ValidationError, match="either task"):
        LmEvalOptions(**options)


@pytest.fixture
def exam(write_rows: Callable[..., Path]) -> Path:
    rows = [
        {
            "key": f"e{i}",
            "question": f"Which is {i}?",
            "options": [f"{i}", "a list", "the key"],
            "answer": i % 3,
        }
        for i in range(12)
    ]
    return write_rows("exam", rows)


def stand_in(folder: Path, body: str) -> Path:
    """An interpreter that has an lm-eval of ours: it answers as `body` says, without a model."""
    (folder / "lm_eval").mkdir(parents=True)
    (folder / "lm_eval-9.9.dist-info").mkdir()
    (folder / "lm_eval-9.9.dist-info" / "METADATA").write_text("Name: lm_eval\nVersion: 9.9\n")
    for part in ("models", "tasks"):
        (folder / "lm_eval" / part).mkdir()
    (folder / "lm_eval" / "models" / "__init__.py").write_text("")
    (folder / "lm_eval" / "models" / "huggingface.py").write_text("def HFLM(**given): return given\n")
    (folder / "lm_eval" / "tasks" / "__init__.py").write_text("def TaskManager(**given): return given\n")
    (folder / "lm_eval" / "__init__.py").write_text(body)
    (folder / "boot.py").write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "given = [each for each in sys.argv[1:] if each != '-I']\n"
        "if given[0] == '-c':\n"
        "    exec(given[1])\n"
        "else:\n"
        "    sys.argv = given\n"
        "    runpy.run_path(given[0], run_name='__main__')\n"
    )
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/boot.py "$@"\n')
    python.chmod(0o755)
    return python


ANSWERING = """
import json
from collections.abc import Callable
from pathlib import Path
def simple_evaluate(model, tasks, task_manager, limit, **more):
    import yaml
    task = yaml.safe_load((Path(task_manager["include_path"]) / "task.yaml").read_text())
    assert tasks == [task["task"]] and model["dtype"] == "float32" and not model["trust_remote_code"]
    lines = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()[:limit]
    good = "good" in model["pretrained"]
    samples = [
        {"doc_id": i, "doc": json.loads(line), "metrics": ["acc"], "acc": float(good or i % 2)}
        for i, line in enumerate(lines)
    ]
    name = task["task"]
    with open(Path(task_manager["include_path"]) / "asked", "a") as asked:
        asked.write(model["pretrained"] + chr(10))
    return {
        "samples": {name: samples},
        "results": {name: {"acc,none": sum(each["acc"] for each in samples) / len(samples)}},
        "versions": {name: 1},
        "higher_is_better": {name: {"acc": True}},
    }
"""


def test_the_probe_has_the_models_figures_and_what_flipped(make_context, exam, tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, str(stand_in(tmp_path / "env", ANSWERING)))
    for name in ("good", "poor"):
        (tmp_path / name).mkdir()
    good, poor = ("model", tmp_path / "good"), ("model", tmp_path / "poor")
    context = make_context(
        {"model": poor, "baseline": poor, "champion": good, "rows": ("exams", exam)}, step="science"
    )
    result = lm_eval.run(context, LmEvalOptions(yaml=TASK, limit=10))
    probe = Input("science", "digest", "probe", context.output("probe"))
    models = {role: context.inputs[role][0] for role in ("model", "baseline", "champion")}
    sets = {entry["measure"]: entry for entry in read_probe(probe, models).entries("science")}
    assert sets["score"]["values"]["model"]["value"] == 0.5
    assert sets["score"]["against"]["champion"]["difference"] == -0.5
    assert sets["negative_flips"]["against"]["champion"]["difference"] == 0.5
    assert sets["negative_flips"]["against"]["baseline"]["difference"] == 0.0
    assert (sets["score"]["name"], sets["score"]["items"]) == ("science", 10)
    assert result.metrics["negative_flips.against_champion"] == 0.5
    asked = (context.work / "task" / "asked").read_text().splitlines()
    assert sorted(Path(each).name for each in asked) == ["good", "poor"]  # one digest, one run
    content = json.loads((context.output("probe") / "probe.json").read_text())
    assert "lm_eval 9.9" in content["notes"][1]
    items = pyarrow.parquet.read_table(context.output("probe") / "items" / "science.parquet").to_pydict()
    flipped = [a < b for a, b in zip(items["model.score"], items["champion.score"], strict=True)]
    assert sum(flipped) / len(flipped) == sets["negative_flips"]["against"]["champion"]["difference"]
    report = Report.model_validate({"models": content["models"], "sets": list(sets.values())})
    rules = [
        {"measure": "science.negative_flips", "against": "champion", "at_most": 0.02, "confidence": 0.95},
        {"measure": "science.score", "against": "baseline", "worse_by": 0.1, "confidence": 0.95},
    ]
    gates = [Gate.model_validate({"gate": "g", "reason": "r", **rule}) for rule in rules]
    assert [result.verdict for result in judge(gates, report)] == ["failed", "passed"]
    assert {"score", "negative_flips", "positive_flips"} <= set(lm_eval.METHOD.figures[""])


def test_what_lm_eval_says_when_it_fails_is_told(make_context, exam, tmp_path, monkeypatch):
    python = stand_in(tmp_path / "env", "def simple_evaluate(**given): raise ValueError('no such split')")
    monkeypatch.setenv(SETTING, str(python))
    (tmp_path / "m").mkdir()
    context = make_context({"model": ("model", tmp_path / "m"), "rows": ("exams", exam)})
    with pytest.raises(ConfigInvalid, match=r"could not score 'model\.m'(.|\n)*ValueError: no such split"):
        lm_eval.run(context, LmEvalOptions(yaml=TASK))


def test_rows_and_a_shipped_task_do_not_go_together(make_context, exam, tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, str(stand_in(tmp_path / "env", ANSWERING)))
    context = make_context({"model": ("model", tmp_path), "rows": ("exams", exam)})
    with pytest.raises(ConfigInvalid, match="has its own documents"):
        lm_eval.run(context, LmEvalOptions(task="arc_easy"))


def test_an_interpreter_without_lm_eval_is_refused_with_a_remedy(make_context, exam, tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv(SETTING, str(bare))
    context = make_context({"model": ("model", tmp_path), "rows": ("exams", exam)})
    with pytest.raises(ConfigInvalid, match=r"not installed for .*pip install 'lm-eval\[hf\]'.*LM_EVAL"):
        lm_eval.run(context, LmEvalOptions(yaml=TASK))
    monkeypatch.setenv(SETTING, str(tmp_path / "nothing"))
    with pytest.raises(ConfigInvalid, match="is no Python interpreter"):
        lm_eval.run(context, LmEvalOptions(yaml=TASK))


@pytest.mark.slow
def test_lm_eval_itself_scores_a_set_of_ours(make_context, exam, tiny_model_dir, tiny_model_like):
    """The whole way: two models, one set; lm-eval's right answers are those of the suite on the same text."""
    try:
        lm_eval.versions_of(os.environ.get(SETTING) or sys.executable)
    except ConfigInvalid as error:
        pytest.skip(f"lm-eval itself was not run: {error}")
    context = make_context(
        {
            "model": ("model", tiny_model_dir),
            "champion": ("model", tiny_model_like(seed=1)),
            "rows": ("exams", exam),
        },
        step="science",
    )
    begun = TASK.replace('"Question:', '"<|bos|>Question:')  # as the suite begins its prompts
    lm_eval.run(context, LmEvalOptions(yaml=begun, max_length=256))
    content = json.loads((context.output("probe") / "probe.json").read_text())
    score = next(entry for entry in content["sets"] if entry["measure"] == "score")
    assert score["items"] == 12
    rows = read_exams(context.inputs["rows"][0], None)
    items = pyarrow.parquet.read_table(context.output("probe") / "items" / "science.parquet")
    for role in ("model", "champion"):
        subject = load_subject(context.inputs[role][0], 256)
        ours = multiple_choice.score(subject, rows, SuiteOptions(), 0, lambda done: None)
        assert items[f"{role}.score"].to_pylist() == ours["right_unnormalised"].tolist()
        assert score["values"][role]["value"] == pytest.approx(ours["right_unnormalised"].mean())
    assert items["key"].to_pylist() == [row.key for row in rows]
    assert 0 < score["values"]["model"]["value"] < 1
