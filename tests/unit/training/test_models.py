import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.recipe.failures import ConfigInvalid, Infrastructure
from tasks.training import models
from tasks.training.models import load_model, load_tokenizer, model_meta, probe_logits, save_model


def test_meta_is_read_from_the_files(tiny_model_dir):
    model, _ = load_model(tiny_model_dir)
    meta = model_meta(tiny_model_dir)
    assert meta["parameters"] == sum(p.numel() for p in model.parameters())
    assert (meta["architecture"], meta["vocab_size"], meta["hidden"], meta["layers"]) == (
        "LlamaForCausalLM",
        300,
        32,
        2,
    )
    assert len(meta["tokenizer"]) == 64


def test_saving_a_loaded_model_gives_the_same_bytes(tiny_model_dir, tmp_path):
    model, tokenizer = load_model(tiny_model_dir)
    tokenizer(["a", "a longer one"], padding=True)  # leaves its padding in the tokenizer
    save_model(model, tokenizer, tmp_path / "copy")
    for name in ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tiny_model_dir / name).read_bytes(), name


def test_only_safetensors_are_written_and_the_tied_weight_once(tiny_model_dir):
    assert not list(tiny_model_dir.glob("*.bin"))
    assert "lm_head.weight" not in load_file(tiny_model_dir / "model.safetensors")


def test_untied_weights_are_saved_untied(tiny_model_dir, tmp_path):
    model, tokenizer = load_model(tiny_model_dir)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    save_model(model, tokenizer, tmp_path / "untied")
    again, _ = load_model(tmp_path / "untied")
    assert torch.equal(probe_logits(model), probe_logits(again))


def test_bf16_is_explicit(tiny_model_dir):
    assert load_model(tiny_model_dir, "bf16")[0].dtype == torch.bfloat16
    assert load_model(tiny_model_dir)[0].dtype == torch.float32


def test_a_model_that_does_not_read_back_is_refused(tiny_model_dir, tmp_path, monkeypatch):
    model, tokenizer = load_model(tiny_model_dir)
    other, _ = load_model(tiny_model_dir)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight += 1
    monkeypatch.setattr(models, "load_model", lambda *_: (other, tokenizer))
    with pytest.raises(Infrastructure, match="does not give back its logits"):
        save_model(model, tokenizer, tmp_path / "broken")


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_an_unknown_architecture_is_refused(tiny_model_dir, tmp_path):
    directory = _copy(tiny_model_dir, tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "brandnew"}))
    with pytest.raises(ConfigInvalid, match="brandnew"):
        load_model(directory)


def test_missing_weights_are_refused(tiny_model_dir, tmp_path):
    directory = _copy(tiny_model_dir, tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigInvalid, match=r"1 weights are missing.*up_proj"):
        load_model(directory)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tiny_model_dir, tmp_path):
    directory = _copy(tiny_model_dir, tmp_path / "model")
    tokenizer = load_tokenizer(directory)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(str(directory))
    with pytest.raises(ConfigInvalid, match="301 tokens but its embedding 300 rows"):
        load_model(directory)


def test_pickled_weights_are_refused(tiny_model_dir, tmp_path):
    directory = _copy(tiny_model_dir, tmp_path / "model")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ConfigInvalid, match=r"no \*\.safetensors"):
        load_model(directory)


def test_a_model_without_a_tokenizer_is_refused(tiny_model_dir, tmp_path):
    directory = _copy(tiny_model_dir, tmp_path / "model")
    (directory / "tokenizer.json").unlink()
    with pytest.raises(ConfigInvalid, match=r"no tokenizer\.json"):
        load_model(directory)
