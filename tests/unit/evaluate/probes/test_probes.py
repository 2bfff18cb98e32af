"""Every probe on tiny models: the form of what it finds, the same again, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from tasks.evaluate import METHODS
from tasks.evaluate.methods.canaries import exposure
from tasks.evaluate.methods.intruders import likeness
from tasks.evaluate.methods.membership import min_k
from tasks.evaluate.probes.preferences import prefers_chosen
from tasks.evaluate.scoring import load_subject
from tasks.prepare.methods.canaries import CanariesOptions, make
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Preempted
from tasks.stage import Input
from tests.conftest import tiny_texts, write_tiny_model

ROLES = ("model", "baseline", "champion")
TEXTS = tiny_texts(24)


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


DOCUMENTS = [{"key": f"d{i}", "text": text} for i, text in enumerate(TEXTS)]
CHATS = [
    {"key": f"c{i}", "messages": [message("user", text[:30]), message("assistant", "a list")]}
    for i, text in enumerate(TEXTS)
]
PAIRS = [
    {
        "key": f"p{i}",
        "prompt": [message("user", text[:30])],
        "chosen": [message("assistant", "it is a list")],
        "rejected": [message("assistant", "no key")],
    }
    for i, text in enumerate(TEXTS[:12])
]
EXAMS = [
    {"key": f"e{i}", "question": text[:40], "options": ["a name", "the list"], "answer": i % 2}
    for i, text in enumerate(TEXTS[:12])
]

QUICK: dict[str, dict[str, Any]] = {
    "membership": {"resamples": 200},
    "canaries": {"resamples": 200},
    "intruders": {},
    "tunability": {"resamples": 200, "threads": 1, "steps": 2, "seeds": 2, "noise": [0.05], "limit": 6},
    "elasticity": {"resamples": 200, "threads": 1, "seeds": 2, "sizes": [1, 2]},
    "disalignment": {"resamples": 200},
    "contrastive": {"resamples": 200, "threads": 1, "rounds": 2, "samples": 3, "tokens": 6, "steps": 1},
}
SMALL = ("canaries", "disalignment", "intruders", "membership")
TRAINING = ("contrastive", "elasticity", "tunability")


@pytest.fixture
def inputs(tiny_model_dir, tiny_model_like, write_rows):
    def of(name: str) -> dict[str, Any]:
        models = {
            "model": Input("merged", "m" * 64, "model", tiny_model_dir),
            "baseline": Input("base", "b" * 64, "model", tiny_model_like(1)),
            "champion": Input("champion", "c" * 64, "model", tiny_model_like(2)),
            "origin": Input("origin", "o" * 64, "model", tiny_model_like(3)),
        }
        canaries = make(CanariesOptions(count=2, controls=2, twins=7, digits=4), 0)
        sets = {
            "suspects": ("documents", write_rows("suspects", DOCUMENTS[:8])),
            "after": ("documents", write_rows("after", DOCUMENTS[8:16])),
            "before": ("documents", write_rows("before", DOCUMENTS[16:])),
            "canaries": ("canaries", write_rows("canaries", canaries)),
            "chats": ("chats", write_rows("chats", CHATS)),
            "score": ("documents", write_rows("score", DOCUMENTS)),
            "alignment": ("pairs", write_rows("pairs", PAIRS)),
            "benign": ("documents", write_rows("benign", DOCUMENTS)),
        }
        given: dict[str, Any] = {**models, **sets}
        return {port: given[port] for port in METHODS[name].inputs}

    return of


@pytest.fixture
def watch(make_context, tmp_path):
    def run(name: str, given: dict[str, Any], place: str = "run", **options: Any):
        context = make_context(given, directory=tmp_path / place, step="watch")
        method = METHODS[name]
        result = method.run(context, method.options.model_validate({**QUICK[name], **options}))
        out = context.output("probe")
        return out, json.loads((out / "probe.json").read_text()), result, context

    return run


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in TRAINING)])
def test_a_probe_has_the_agreed_form_and_is_the_same_again(name, inputs, watch):
    assert METHODS[name].outputs == {"probe": "probe"}
    files = []
    for place in ("one", "two"):
        out, found, result, context = watch(name, inputs(name), place)
        files.append({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()})
        assert not any(context.work.iterdir())
    assert files[0] == files[1]
    assert {*files[0]} == {"probe.json", "items/watch.parquet"}
    assert found["probe"] == name
    measures = [entry["measure"] for entry in found["sets"]]
    assert len({*measures}) == len(measures)
    assert {*METHODS[name].figures[""]} <= {*measures}
    judged = [role for role in ROLES if role in METHODS[name].inputs]
    for entry in found["sets"]:
        assert entry["name"] == "watch"
        for role in ROLES:
            value = entry["values"][role]
            if role not in judged:
                assert value is None
            else:
                assert value["low"] <= value["value"] <= value["high"]
                assert math.isfinite(value["low"])
                assert math.isfinite(value["high"])
    assert result.metrics[measures[0]] == found["sets"][0]["values"]["model"]["value"]


@pytest.mark.parametrize("name", SMALL)
def test_a_probe_stops_when_asked(name, inputs, make_context, tmp_path):
    context = make_context(inputs(name), directory=tmp_path / "run")
    context.stop_after = 2
    method = METHODS[name]
    with pytest.raises(Preempted):
        method.run(context, method.options.model_validate(QUICK[name]))


def test_a_probe_never_looks_at_a_model_twice_on_one_manifest(
    inputs, make_context, tmp_path, monkeypatch, tiny_model_like
):
    loaded: list[str] = []

    def counted(item: Input, max_length: int):
        loaded.append(item.ref)
        return load_subject(item, max_length)

    monkeypatch.setattr("tasks.evaluate.probes.models.load_subject", counted)
    kept: dict[str, Path] = {}
    method, given = METHODS["membership"], inputs("membership")

    def run(place: str, kept: dict[str, Path], candidate: Input, **options: Any) -> bytes:
        context = make_context({**given, "model": candidate}, directory=tmp_path / place)
        context.kept = kept
        method.run(context, method.options.model_validate({"resamples": 100, "limit": 3, **options}))
        assert len(context.notes) == 3 - len(loaded)
        loaded.clear()
        made: bytes = (context.output("probe") / "probe.json").read_bytes()
        return made

    first, second = given["model"], Input("tuned", "t" * 64, "model", tiny_model_like(4))
    run("one", kept, first)
    reused = run("two", kept, second)  # baseline and champion are known
    assert run("three", {}, second) == reused
    run("four", kept, second, confidence=0.9, batch_size=3)
    before = len(kept)
    run("five", kept, second, k=0.5)  # another manifest: all three again
    assert (before, len(kept)) == (4, 7)


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(ValidationError, match="resamples"):
        METHODS["intruders"].options.model_validate({"resamples": 200})
    with pytest.raises(ValidationError, match="limit"):
        METHODS["contrastive"].options.model_validate({"limit": 20})
    for sizes in ([2, 2], [4, 2], [0, 1]):
        with pytest.raises(ValidationError, match="increasing"):
            METHODS["elasticity"].options.model_validate({"sizes": sizes})


def test_min_k_is_the_mean_of_the_least_likely():
    scores = numpy.array([-1.0, -9.0, -2.0, -7.0, -0.5])
    assert min_k(scores, 0.4) == pytest.approx(-8.0)
    assert min_k(scores, 0.1) == pytest.approx(-9.0)
    assert min_k(scores, 1.0) == pytest.approx(scores.mean())


def test_exposure_of_the_first_the_last_and_one_among_equals():
    twins = numpy.array([-5.0, -6.0, -7.0])
    assert exposure(-4.0, twins) == pytest.approx(2)
    assert exposure(-8.0, twins) == pytest.approx(0)
    assert exposure(-5.0, numpy.full(3, -5.0)) == pytest.approx(2 - math.log2(2.5))


def test_preferences_and_ties():
    means = numpy.array([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]])
    assert prefers_chosen(means).tolist() == [1.0, 0.0, 0.5]


def test_likeness_of_what_was_there_and_of_what_was_not():
    generator = torch.Generator().manual_seed(0)
    old = torch.diag(torch.tensor([5.0, 4.0, 3.0, 0.0, 0.0, 0.0]))
    turned = old.clone()
    turned[0, 0] = 6.0
    assert likeness(turned, old, 3) == pytest.approx([1.0, 1.0, 1.0])
    tall = torch.randn(40, 6, generator=generator)
    new = torch.zeros(40, 1)
    new[:, 0] = torch.linalg.svd(tall).U[:, 10]  # at right angles to all of the old columns
    intruding = tall + 1000 * new @ torch.ones(1, 6)
    found = likeness(intruding, tall, 2)
    assert found[0] < 0.01
    assert found[1] > 0.5
    assert likeness(tall, tall, 10).shape == (6,)


def test_intruders_need_the_model_that_it_was_tuned_from(inputs, watch, tmp_path):
    given = inputs("intruders")
    wide = Input("wide", "w" * 64, "model", write_tiny_model(tmp_path / "wide", hidden=64))
    with pytest.raises(ConfigInvalid, match="'merged' and 'wide' differ in 14 matrices"):
        watch("intruders", {**given, "origin": wide})
    _, found, _, _ = watch("intruders", {**given, "champion": wide}, "other")
    assert "the champion is not compared" in found["notes"][1]
    assert found["sets"][0]["against"]["champion"] is None
    with pytest.raises(ConfigInvalid, match=r"larger than options\.largest \(8\)"):
        watch("intruders", given, "small", largest=8)


def test_one_planted_direction_is_one_intruder(inputs, watch, tiny_model_dir, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(tiny_model_dir, edited)
    (file,) = edited.glob("*.safetensors")
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    weight = tensors[name]
    outside = torch.linalg.svd(weight).U[:, -1:]  # 64 rows and 32 columns: not among the left vectors
    tensors[name] = weight + 50 * weight.norm() * outside @ torch.ones(1, weight.shape[1])
    save_file(tensors, file, metadata={"format": "pt"})
    original = Input("base", "b" * 64, "model", tiny_model_dir)
    given = {"model": Input("edited", "e" * 64, "model", edited), "origin": original, "champion": original}
    _, found, _, _ = watch("intruders", given)
    figures = {entry["measure"]: entry for entry in found["sets"]}
    assert figures["intruders"]["values"]["model"]["value"] == 1
    assert figures["most"]["values"]["model"]["value"] == 1
    assert figures["intruders"]["values"]["champion"]["value"] == 0
    assert found["notes"][-1].startswith(f"{name}: 1 of ")


def test_models_of_other_tokens_are_not_contrasted(inputs, watch, tmp_path):
    given = inputs("disalignment")
    foreign = tmp_path / "foreign"
    shutil.copytree(given["champion"].path, foreign)
    content = json.loads((foreign / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    (foreign / "tokenizer.json").write_text(json.dumps(content))
    other = Input("foreign", "f" * 64, "model", foreign)
    with pytest.raises(ConfigInvalid, match="'merged' has not the tokenizer of 'foreign'"):
        watch("disalignment", {**given, "origin": other})
    _, found, _, _ = watch("disalignment", {**given, "champion": other}, "other")
    assert "the champion is not contrasted" in found["notes"][0]
    contrastive = {**inputs("contrastive"), "origin": other}
    with pytest.raises(ConfigInvalid, match="another tokenizer"):
        watch("contrastive", contrastive, "contrastive")


def test_pairs_that_do_not_fit_are_left_out_and_counted(inputs, watch, write_rows):
    with pytest.raises(DataInvalid, match="none of 12 pairs fits into the 8 tokens"):
        watch("disalignment", inputs("disalignment"), max_length=8)
    long = {**PAIRS[0], "key": "long", "chosen": [message("assistant", " ".join(TEXTS))]}
    given = inputs("disalignment")
    _, short, _, _ = watch("disalignment", given, "short")
    given["alignment"] = ("pairs", write_rows("mixed", [*PAIRS, long]))
    _, mixed, _, _ = watch("disalignment", given, "mixed")
    assert mixed["notes"] == ["1 of 13 pairs are longer than the model's window and were left out"]
    for one, other in zip(short["sets"], mixed["sets"], strict=True):
        assert one["values"]["model"]["value"] == other["values"]["model"]["value"]


def test_a_canary_that_does_not_fit_is_named(inputs, watch):
    with pytest.raises(DataInvalid, match="canary 'planted-0' has"):
        watch("canaries", inputs("canaries"), max_length=8)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"key": "a", "planted": True, "prompt": "", "secret": "1", "twins": ["2"]}, "no prompt and secret"),
        ({"key": "a", "planted": True, "prompt": "p", "secret": "1", "twins": []}, "no twins"),
        (
            {"key": "a", "planted": False, "prompt": "p", "secret": "1", "twins": ["2"]},
            "none of them was planted",
        ),
    ],
)
def test_broken_canaries_are_refused(inputs, watch, write_rows, row, complaint):
    given = {**inputs("canaries"), "canaries": ("canaries", write_rows("broken", [row]))}
    with pytest.raises(DataInvalid, match=complaint):
        watch("canaries", given)


def test_a_control_of_another_style_is_said(inputs, watch, write_rows):
    given = {**inputs("membership"), "suspects": ("exams", write_rows("exams", EXAMS))}
    _, found, _, _ = watch("membership", given)
    assert "the suspects are exams and the control documents" in found["notes"][0]


def test_no_more_rows_than_asked_are_read(inputs, watch):
    out, found, _, _ = watch("membership", inputs("membership"), limit=4)
    assert found["sets"][0]["items"] == 4  # suspects, and as many unseen texts
    assert pyarrow.parquet.read_table(out / "items" / "watch.parquet").num_rows == 3 * 4


def test_requests_are_judged_as_the_suite_judges_them(inputs, watch, write_rows):
    rows = [{"key": f"r{i}", "prompt": text[:30], "refuse": i < 4} for i, text in enumerate(TEXTS[:6])]
    given = {**inputs("disalignment"), "alignment": ("requests", write_rows("requests", rows))}
    _, found, _, _ = watch("disalignment", given)
    figures = {entry["measure"]: entry for entry in found["sets"]}
    assert figures["own_harm"]["items"] == 4  # what should be answered says nothing of harm
    assert figures["own_harm"]["values"]["model"]["value"] == 1  # random words are no refusal
    none = [{**row, "refuse": False} for row in rows]
    given["alignment"] = ("requests", write_rows("answered", none))
    with pytest.raises(DataInvalid, match="no request that should be refused"):
        watch("disalignment", given, "none")


@pytest.mark.slow
def test_tunability_on_exams_counts_right_answers(inputs, watch, write_rows):
    given = {**inputs("tunability"), "score": ("exams", write_rows("exams", EXAMS))}
    out, found, _, _ = watch("tunability", given)
    figures = {entry["measure"]: entry for entry in found["sets"]}
    assert figures["after_sft"]["better"] == "higher"
    assert figures["sensitivity"]["better"] == "lower"
    before, noisy = (figures[name]["values"]["model"]["value"] for name in ("before_sft", "noise_0.05"))
    assert figures["sensitivity"]["values"]["model"]["value"] == pytest.approx(before - noisy)
    assert Path(out / "items/watch.parquet").is_file()
