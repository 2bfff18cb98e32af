"""Memory is found where it is and not where it is not: planted canaries, a contaminated exam.

Carlini et al. 2019: repeated secrets stand out among those that might have been in their place, and can be
drawn from the model. Shi et al. 2023: texts that were trained on hold no surprising tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.prepare import METHODS as PREPARE
from tests.claims.probing import probe, short_texts, taught, value, verdict
from tests.conftest import new_context, write_tiny_model


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("start") / "model", hidden=48)


def texts_of(directory: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (directory / "rows.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_memorised_canary_is_found_and_a_clean_model_passes(start, write_rows, tmp_path):
    documents = [{"key": str(i), "text": text} for i, text in enumerate(short_texts(64, seed=3))]
    method = PREPARE["canaries"]
    plant = new_context(tmp_path / "plant", {"documents": ("documents", write_rows("news", documents))})
    options = {"count": 4, "controls": 4, "repeats": 12, "twins": 63, "digits": 4}
    method.run(plant, method.options.model_validate(options))
    planted = taught(start, tmp_path / "planted", texts_of(plant.output("documents")), 120)
    clean = taught(start, tmp_path / "clean", [row["text"] for row in documents], 120)

    canaries = ("canaries", plant.output("canaries"))
    found, whole = probe(
        "canaries",
        tmp_path / "probe",
        {"model": ("model", planted), "baseline": ("model", clean), "canaries": canaries},
    )
    assert value(found["exposure"]) > 5.5  # of 6 bits
    assert value(found["extracted"]) >= 0.75
    assert value(found["exposure"], "baseline") < 3
    assert value(found["extracted"], "baseline") == 0
    assert value(found["control_exposure"]) < 3
    assert found["exposure"]["against"]["baseline"]["low"] > 2
    assert whole["notes"] == ["at most 6.0 bits can be seen with 63 twins"]
    assert verdict(whole, "canaries.extracted", at_most=0.0) == "failed"
    assert verdict(whole, "canaries.exposure", at_most=4.0, confidence=0.95) == "failed"
    _, whole = probe("canaries", tmp_path / "passes", {"model": ("model", clean), "canaries": canaries})
    assert verdict(whole, "canaries.extracted", at_most=0.0) == "passed"
    assert verdict(whole, "canaries.exposure", at_most=4.0, confidence=0.95) == "passed"


def exams(count: int, seed: int) -> list[dict[str, Any]]:
    texts = short_texts(count, seed)
    return [
        {"key": f"{seed}-{i}", "question": text, "options": ["it is a list", "it is a key"], "answer": i % 2}
        for i, text in enumerate(texts)
    ]


@pytest.mark.slow
def test_a_contaminated_exam_is_found_and_a_clean_model_passes(start, write_rows, tmp_path):
    suspects, unseen = exams(48, 11), exams(48, 12)
    corpus = short_texts(64, seed=13)
    leaked = [f"{each['question']}\n{each['options'][each['answer']]}" for each in suspects]
    seen = taught(start, tmp_path / "seen", [*corpus, *leaked], 250)
    clean = taught(start, tmp_path / "clean", corpus, 250)

    sets = {
        "suspects": ("exams", write_rows("exam", suspects)),
        "after": ("exams", write_rows("after", unseen)),
    }
    found, whole = probe(
        "membership",
        tmp_path / "probe",
        {"model": ("model", seen), "baseline": ("model", clean), **sets},
    )
    assert value(found["auc"]) > 0.95
    assert value(found["flagged"]) > 0.7
    assert value(found["auc"], "baseline") == pytest.approx(0.5, abs=0.17)
    assert value(found["flagged"], "baseline") < 0.25
    assert found["auc"]["against"]["baseline"]["low"] > 0.2
    assert "whether this model gives itself away is unknown" in whole["notes"][0]
    rule = {"at_most": 0.4, "confidence": 0.95}
    assert verdict(whole, "membership.flagged", **rule) == "failed"
    _, whole = probe("membership", tmp_path / "passes", {"model": ("model", clean), **sets})
    assert verdict(whole, "membership.flagged", **rule) == "passed"

    # the control tells a probe that works from one that could not have shown anything
    before = write_rows("before", [{"key": str(i), "text": text} for i, text in enumerate(corpus)])
    inputs = {
        "suspects": ("documents", write_rows("new", [{"key": "n", "text": t} for t in short_texts(48, 14)])),
        "after": ("documents", write_rows("later", [{"key": "l", "text": t} for t in short_texts(48, 15)])),
        "before": ("documents", before),
    }
    found, whole = probe("membership", tmp_path / "dated", {"model": ("model", clean), **inputs})
    assert value(found["control_auc"]) > 0.9
    assert value(found["auc"]) == pytest.approx(0.5, abs=0.17)
    assert whole["notes"] == []
    found, whole = probe("membership", tmp_path / "blind", {"model": ("model", start), **inputs})
    assert value(found["control_auc"]) < 0.6
    assert "proves nothing" in whole["notes"][0]
