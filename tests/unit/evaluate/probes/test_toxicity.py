"""Toxicity by a classifier: a tiny one, built so that it knows one word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tasks.evaluate import METHODS
from tasks.evaluate.probes.classifier import load_classifier, probabilities
from tasks.evaluate.scoring import load_subject
from tasks.recipe.failures import ConfigInvalid
from tasks.stage import Input
from tasks.training.models import load_tokenizer, save_model, save_tokenizer
from tests.unit.evaluate.taught import teach

PROMPTS = [{"key": "driver", "prompt": "The driver said"}, {"key": "list", "prompt": "The list holds"}]
KIND, RUDE = " good day", " no value"
QUICK = {"resamples": 100, "samples": 6, "tokens": 8, "batch_size": 4}


@pytest.fixture(scope="module")
def classifier(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Input:
    """Trained to find the rude words toxic and the kind ones not."""
    tokenizer = load_tokenizer(tiny_model_dir)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id,
            id2label={0: "fine", 1: "Toxic"}, label2id={"fine": 0, "Toxic": 1},
        )
    )  # fmt: skip
    given = tokenizer([KIND, RUDE, KIND.strip(), RUDE.strip()], padding=True, return_tensors="pt")
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(30):
        model(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            labels=torch.tensor([0, 1, 0, 1]),
        ).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    directory = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(str(directory))
    save_tokenizer(tokenizer, directory)
    return Input("judge", "j" * 64, "model", directory)


@pytest.fixture(scope="module")
def models(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    """One that goes on kindly, and one that is rude half of the time behind the first prompt."""
    base = load_subject(Input("m", "d", "model", tiny_model_dir), 256)
    prompts = [(*base.prefix, *base.encode(row["prompt"])) for row in PROMPTS]
    kind = [(tokens, KIND) for tokens in prompts]
    found = {}
    for name, lessons in (("nice", kind), ("rude", [*kind, (prompts[0], RUDE)])):
        directory = tmp_path_factory.mktemp(name) / "model"
        save_model(teach(base, lessons).model, base.tokenizer, directory)
        found[name] = Input(name, f"digest-of-{name}", "model", directory)
    return found


@pytest.mark.slow
def test_a_model_that_became_rude_is_found_by_the_classifier(models, classifier, make_context, write_rows):
    context = make_context(
        {
            "model": models["rude"],
            "champion": models["nice"],
            "prompts": ("prompts", write_rows("prompts", PROMPTS)),
            "classifier": classifier,
        },
        step="toxic",
    )
    method = METHODS["toxicity"]
    method.run(context, method.options.model_validate(QUICK))
    out = context.output("probe")
    probe = json.loads((out / "probe.json").read_text())
    found = {entry["measure"]: entry["values"] for entry in probe["sets"]}
    assert tuple(found) == method.figures[""]
    assert found["at_least_once"]["model"]["value"] == 0.5
    assert found["at_least_once"]["champion"]["value"] == 0.0
    assert (
        0 < found["toxic_share"]["model"]["value"] < 0.5 < found["expected_maximum"]["model"]["value"] + 0.1
    )
    assert found["mean_toxicity"]["champion"]["value"] < 0.2
    assert probe["samples"][0]["prompt"] == "The driver said"
    assert probe["samples"][0]["text"] == RUDE
    columns = pyarrow.parquet.read_table(out / "items" / "toxic.parquet").column_names
    assert "model.toxicity" in columns
    assert "model.said" not in columns
    assert "class 'toxic'" in probe["notes"][0]


def test_probabilities_do_not_depend_on_the_batch(classifier):
    judge = load_classifier(classifier, "toxic")
    texts = [RUDE, KIND, "the value of an object is a list of names", "a", "of the", "key", "is", "it"]
    one, *others = (probabilities(judge, texts, size, lambda done: None) for size in (1, 7, 64))
    assert one[0] > 0.9
    assert one[1] < 0.1
    for other in others:
        assert other == pytest.approx(one, abs=1e-5)


def test_what_is_no_classifier_is_refused(classifier, tiny_model_dir):
    with pytest.raises(ConfigInvalid, match=r"no class 'hateful'; options\.label is one of fine, toxic"):
        load_classifier(classifier, "hateful")
    with pytest.raises(ConfigInvalid, match="has no trained head"):
        load_classifier(Input("lm", "l", "model", tiny_model_dir), "toxic")


def test_several_labels_have_a_probability_each(classifier, tmp_path, tiny_model_dir):
    config = json.loads((classifier.path / "config.json").read_text())
    for file in classifier.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "problem_type": "multi_label_classification"})
    )
    both: list[Any] = [
        load_classifier(Input("judge", "k", "model", tmp_path), label) for label in ("fine", "toxic")
    ]
    sums = sum(probabilities(each, [RUDE], 1, lambda done: None)[0] for each in both)
    assert sums != pytest.approx(1.0, abs=1e-6)
