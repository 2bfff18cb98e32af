"""Every probe and every measure on real text: one run of tests/recipes/evidence.yaml with the runner.

The sets that no Python installation has, the classifier and the task of lm-eval are put into a copy of it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.recipe.catalogue import Catalogue
from tests import warm
from tests.conftest import write_tiny_model
from tests.unit.evaluate.test_lm_eval import TASK
from tests.unit.evaluate.test_suite_ports import OPTIONS, ROWS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "recipes" / "evidence.yaml"
PROBES = {
    "contamination": "membership",
    "secrets": "canaries",
    "tunable": "tunability",
    "lasting": "elasticity",
    "emulated": "disalignment",
    "novel": "contrastive",
    "spectrum": "intruders",
    "toxic": "toxicity",
}
OF_FILES = ("facts", "questions", "programs", "requests", "prompts")
MODELS = {"model": "aligned", "baseline": "base"}
ASKED = {
    **OPTIONS,
    "prompt_style": "auto",
    "limit": 12,
    "shots": [0, 1],
    "wordings": ["{question}", "Question: {question}"],
    "wordings_unseen": ["Say: {question}"],
}


def write_classifier(directory: Path) -> None:
    """A sequence classifier that knows nothing."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from tasks.training.models import load_tokenizer, save_tokenizer

    tokenizer = load_tokenizer(write_tiny_model(directory.with_name("language-model")))
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id,
        id2label={0: "fine", 1: "toxic"}, label2id={"fine": 0, "toxic": 1},
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(str(directory))
    save_tokenizer(tokenizer, directory)


def with_every_set(directory: Path) -> Path:
    """The recipe with a set for every port of the suite, a gate on each, a classifier, and lm-eval."""
    recipe = yaml.safe_load(RECIPE.read_text())
    steps, gates = recipe["steps"], recipe["release"]["gates"]
    report = steps["report"]
    for port in OF_FILES:
        file = directory / port / "rows.jsonl"
        file.parent.mkdir()
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[port]))
        recipe["data"][port] = {"uri": f"file://{file.parent}", "kind": port}
        report["inputs"][port] = f"data.{port}"
    report["inputs"]["haystacks"] = "data.general"
    report["options"] = ASKED
    write_classifier(directory / "classifier")
    steps["toxic"] = {
        "stage": "evaluate",
        "method": "toxicity",
        "inputs": {**MODELS, "prompts": "data.prompts", "classifier": f"file://{directory / 'classifier'}"},
        "options": {"samples": 2, "tokens": 4},
    }
    steps["science"] = {
        "stage": "evaluate",
        "method": "lm_eval",
        "inputs": {**MODELS, "rows": "data.exams_news"},
        "options": {"yaml": TASK, "limit": 4, "max_length": 256},
    }
    report["inputs"]["probes"] += ["toxic", "science"]
    for port, figures in Catalogue.load().method("evaluate", "suite").figures.items():
        name = {"documents": "news_heldout", "exams": "exams_news", "haystacks": "general"}.get(port, port)
        gates.append({"gate": f"any-{port}", "measure": f"{name}.{figures[0]}", "at_least": 0.0})
    gates.append(
        {"gate": "science-flips", "measure": "science.negative_flips", "against": "baseline", "at_most": 1.0}
    )
    for gate in gates:
        gate.setdefault("severity", "warn")
        gate.setdefault("reason", "It can be named.")
    path = directory / "evidence.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def perennial(home: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PERENNIAL_STORE", "MLFLOW_TRACKING_URI")}
    environment |= {"PERENNIAL_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [warm.python(), "-m", "tasks.cli", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def records(home: Path, run: str) -> dict[str, dict[str, Any]]:
    folder = home / "store" / "runs" / run / "steps"
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_the_report_holds_every_probe_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    recipe = with_every_set(tmp_path)
    perennial(home, "run", str(recipe), "--run", "one")
    steps = records(home, "one")
    directory = home / "store" / "artefacts" / steps["report"]["outputs"]["report"]["digest"] / "files"
    report = json.loads((directory / "report.json").read_text())
    found = {f"{entry['name']}.{entry['measure']}": entry for entry in report["sets"]}
    catalogue = Catalogue.load()
    for step, method in PROBES.items():
        for figure in catalogue.method("evaluate", method).figures[""]:
            if f"{step}.{figure}" != "contamination.control_auc":  # no text of before is given
                assert found[f"{step}.{figure}"]["values"]["model"] is not None
        assert report["probes"][step]["probe"] == method
        assert (directory / f"items/{step}.{step}.parquet").is_file()
    assert found["tunable.after_sft"]["against"]["baseline"]["quantiles"]
    samples = json.loads((directory / "restricted/novel.json").read_text())["samples"]
    assert {each["round"] for each in samples} == {1, 2}
    for port in (*OF_FILES, "general", "exams_news"):
        assert f"items/{port}.parquet" in {f"items/{path.name}" for path in (directory / "items").iterdir()}
    for figure in ("facts.lost", "questions.unfinished", "programs.pass_at_k"):
        assert found[figure]["items"] == len(ROWS[figure.partition(".")[0]])
    answered = [row for row in ROWS["requests"] if not row["refuse"]]
    assert found["requests.over_refusal"]["items"] == len(answered), "the others say nothing of it"
    for figure in ("few_shot", "wording_worst", "wording_unseen_spread", "calibration_error"):
        assert found[f"exams_news.{figure}"]["values"]["baseline"] is not None
    assert found["general.at_50"]["against"]["baseline"]["detectable"] is not None
    assert found["science.score"]["items"] == 4
    assert 0 <= found["science.negative_flips"]["against"]["baseline"]["difference"] <= 1
    assert (directory / "restricted/said/questions.parquet").is_file()
    again = perennial(home, "run", str(recipe), "--run", "two")
    assert again.count("nothing changed since run one") == len(steps)
