"""Whole merges of tiny models: what is written, what is refused, how much memory it takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.merge import METHODS
from tasks.recipe.failures import ConfigInvalid, DataInvalid, Diverged, Preempted
from tasks.stage import Result


@pytest.fixture
def parents(tiny_model_dir: Path, tiny_model_like: Callable[..., Path]) -> list[Path]:
    return [tiny_model_dir, tiny_model_like(1), tiny_model_like(2)]


@pytest.fixture
def merge(make_context, tmp_path: Path):
    """Run a method on model directories; gives its output directory and its result."""

    def run(
        method: str, models: list[Path], base: Path | None = None, seed: int = 0, name: str = "run", **options
    ):
        inputs: dict[str, Any] = {"models": [("model", path) for path in models]}
        if base:
            inputs["base"] = ("model", base)
        context = make_context(inputs, directory=tmp_path / name, seed=seed, step="merged")
        chosen = METHODS[method]
        result: Result = chosen.run(context, chosen.options(**options))
        return tmp_path / name / "outputs" / "model", result

    return run


def changed(source: Path, target: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of a model with tensors replaced, added or (None) removed; dots are written as `__`."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    for name, tensor in tensors.items():
        weights.pop(name.replace("__", "."), None)
        if tensor is not None:
            weights[name.replace("__", ".")] = tensor
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def edited(source: Path, target: Path, **keys: object) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **keys}))
    return target


MIXING = ["linear", "slerp", "task_arithmetic", "ties", "dare"]


def test_methods_table_starts_with_the_default():
    assert list(METHODS) == [*MIXING, "adapters", "delta_come"]


@pytest.mark.parametrize("method", MIXING)
def test_every_method_writes_a_model_that_loads(method: str, merge, parents: list[Path]):
    out, result = merge(method, parents[:2], base=parents[2])
    _, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (
        AutoTokenizer.from_pretrained(out).chat_template
        == AutoTokenizer.from_pretrained(parents[0]).chat_template
    )
    assert result.meta["model"]["layers"] == 2
    assert result.meta["model"]["vocab_size"] == 300
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert result.meta["model"]["parameters"] == loaded.num_parameters()
    assert result.metrics["moved.merged"] > 0
    assert "from the base" in result.figure


def test_slerp_at_zero_gives_the_first_parent_exactly(merge, parents: list[Path]):
    out, _ = merge("slerp", parents[:2], weight=0.0)
    first, merged = load_file(parents[0] / "model.safetensors"), load_file(out / "model.safetensors")
    assert first.keys() == merged.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-7)


def test_linear_reads_sharded_parents_and_writes_shards(merge, parents: list[Path], tmp_path: Path):
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(parents[1]).save_pretrained(sharded, max_shard_size="40KB")
    shutil.copy(parents[1] / "tokenizer.json", sharded)
    assert (sharded / "model.safetensors.index.json").exists()
    whole, _ = merge("linear", parents[:2], name="whole", weights=[1.0, 3.0])
    out, _ = merge("linear", [parents[0], sharded], name="shards", weights=[1.0, 3.0], shard_bytes=50_000)
    assert len(list(out.glob("*.safetensors"))) > 1
    expected = AutoModelForCausalLM.from_pretrained(whole).state_dict()
    first, second = (load_file(path / "model.safetensors") for path in parents[:2])
    for name, tensor in AutoModelForCausalLM.from_pretrained(out).state_dict().items():
        assert torch.equal(tensor, expected[name])
        if name in first:
            torch.testing.assert_close(tensor, 0.25 * first[name] + 0.75 * second[name])


def test_the_result_has_the_first_models_element_type(merge, parents: list[Path], tmp_path: Path):
    half = {
        name: tensor.to(torch.bfloat16)
        for name, tensor in load_file(parents[0] / "model.safetensors").items()
    }
    first = changed(parents[0], tmp_path / "half", **{k.replace(".", "__"): v for k, v in half.items()})
    out, result = merge("linear", [first, parents[1]])
    second = load_file(parents[1] / "model.safetensors")
    for name, tensor in load_file(out / "model.safetensors").items():
        assert tensor.dtype == torch.bfloat16
        expected = ((half[name].float() + second[name]) / 2).to(torch.bfloat16)
        torch.testing.assert_close(tensor, expected, rtol=1e-2, atol=1e-3)
    assert (result.meta["model"]["dtype"], result.meta["model"]["arithmetic"]) == ("BF16", "F32")


def test_dare_repeats_by_seed(merge, parents: list[Path]):
    outs = [
        merge("dare", parents[:2], base=parents[2], seed=seed, name=name)[0] / "model.safetensors"
        for seed, name in [(1, "a"), (1, "b"), (2, "c")]
    ]
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()


def test_a_stored_copy_of_a_tied_head_is_dropped(merge, parents: list[Path], tmp_path: Path):
    embedding = load_file(parents[1] / "model.safetensors")["model.embed_tokens.weight"]
    second = changed(parents[1], tmp_path / "copy", lm_head__weight=embedding.clone())
    out, _ = merge("linear", [parents[0], second])
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert AutoModelForCausalLM.from_pretrained(out).config.tie_word_embeddings


def test_a_tied_and_an_untied_model_merge_into_an_untied_one(merge, parents: list[Path], tmp_path: Path):
    head = torch.randn(300, 32)
    untied = changed(
        edited(parents[1], tmp_path / "edit", tie_word_embeddings=False),
        tmp_path / "untied",
        lm_head__weight=head,
    )
    out, _ = merge("linear", [parents[0], untied])
    embedding = load_file(parents[0] / "model.safetensors")["model.embed_tokens.weight"]
    loaded = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(loaded.lm_head.weight, (embedding + head) / 2)
    assert not loaded.config.tie_word_embeddings


def test_a_head_that_contradicts_its_tie_is_refused(merge, parents: list[Path], tmp_path: Path):
    broken = changed(parents[1], tmp_path / "broken", lm_head__weight=torch.randn(300, 32))
    with pytest.raises(ConfigInvalid, match=r"ties 'lm_head.weight'"):
        merge("linear", [parents[0], broken])


def test_too_few_models_and_a_missing_base(merge, parents: list[Path]):
    with pytest.raises(ConfigInvalid, match="two or more models, got 1"):
        merge("linear", parents[:1])
    with pytest.raises(ConfigInvalid, match="between two models, got 3"):
        merge("slerp", parents)
    for method in ("task_arithmetic", "ties", "dare"):
        with pytest.raises(ConfigInvalid, match=r"inputs\.base"):
            merge(method, parents[:2])


def test_weights_must_fit(merge, parents: list[Path]):
    with pytest.raises(ConfigInvalid, match="3 entries for 2 models"):
        merge("linear", parents[:2], weights=[1.0, 1.0, 1.0])
    with pytest.raises(ConfigInvalid, match="must be positive"):
        merge("linear", parents[:2], weights=[1.0, -1.0])
    with pytest.raises(ConfigInvalid, match="must be positive"):
        merge("ties", parents[:2], base=parents[2], weights=[1.0, 0.0])


def test_another_configuration_is_named(merge, parents: list[Path], tmp_path: Path):
    other = edited(parents[1], tmp_path / "other", rms_norm_eps=0.5)
    with pytest.raises(ConfigInvalid, match=r"rms_norm_eps = .*0\.5"):
        merge("linear", [parents[0], other])


def test_an_unknown_architecture_is_named(merge, parents: list[Path], tmp_path: Path):
    other = edited(parents[1], tmp_path / "other", model_type="nonesuch")
    with pytest.raises(ConfigInvalid, match=r"models\.other.*unknown architecture"):
        merge("linear", [parents[0], other])


def test_another_tokenizer_is_named(merge, parents: list[Path], tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(parents[1], other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text + "\n")
    with pytest.raises(ConfigInvalid, match=r"'models\.model' and 'models\.other' have different tokenizers"):
        merge("linear", [parents[0], other])


def test_a_missing_tensor_and_another_shape_are_named(merge, parents: list[Path], tmp_path: Path):
    less = changed(parents[1], tmp_path / "less", model__norm__weight=None)
    with pytest.raises(ConfigInvalid, match=r"'model\.norm\.weight' is in 'models\.model' but not in"):
        merge("linear", [parents[0], less])
    wide = changed(parents[1], tmp_path / "wide", model__norm__weight=torch.zeros(33))
    with pytest.raises(ConfigInvalid, match=r"'model\.norm\.weight' is \(32,\).*\(33,\)"):
        merge("linear", [parents[0], wide])


def test_shapes_that_contradict_the_configuration_are_named(merge, parents: list[Path], tmp_path: Path):
    pair = [
        changed(parents[i], tmp_path / f"w{i}", model__norm__weight=torch.zeros(33), name=None)
        for i in range(2)
    ]
    with pytest.raises(DataInvalid, match=r"'model\.norm\.weight' is \(33,\), config.json asks for \(32,\)"):
        merge("linear", pair)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value: float, merge, parents: list[Path], tmp_path: Path):
    bad = torch.ones(32)
    bad[3] = value
    other = changed(parents[1], tmp_path / "bad", model__norm__weight=bad)
    with pytest.raises(DataInvalid, match=r"'models\.bad': tensor 'model\.norm\.weight'"):
        merge("linear", [parents[0], other])


def test_a_merge_that_overflows_is_refused(merge, parents: list[Path], tmp_path: Path):
    large = [
        changed(parents[i], tmp_path / f"l{i}", model__norm__weight=torch.full((32,), 3e38)) for i in range(2)
    ]
    with pytest.raises(Diverged, match=r"'model\.norm\.weight' is not finite"):
        merge("task_arithmetic", large, base=parents[2], scale=1.0)


def test_stopping_ends_the_merge_as_preempted(make_context, parents: list[Path]):
    context = make_context({"models": [("model", path) for path in parents[:2]]})
    context.stop_after = 3
    with pytest.raises(Preempted):
        METHODS["linear"].run(context, METHODS["linear"].options())


@pytest.mark.slow
def test_memory_stays_near_the_largest_tensors(tmp_path: Path, parents: list[Path]):
    """Two parents of 12 x 8 MB (96 MB each, 192 MB together) merge within 64 MB above the start."""
    for number, parent in enumerate(parents[:2]):
        torch.manual_seed(number)
        layers = {f"layer.{i}.weight": torch.randn(1024, 2048) for i in range(12)}
        (tmp_path / str(number)).mkdir()
        save_file(layers, tmp_path / str(number) / "model.safetensors")
        shutil.copy(parent / "tokenizer.json", tmp_path / str(number))
    script = f"""
import resource
from pathlib import Path
import torch
from tasks.merge.methods.slerp import slerp
from tasks.merge.parents import Parent, Parents
from tasks.merge.stream import Moves, _first_entry, _merged
from tasks.merge.weights import ShardWriter, open_weights, plan_shards
root = Path({str(tmp_path)!r})
models = [Parent(n, root / n, None, open_weights(root / n, n), {{}}, "") for n in "01"]
parents = Parents(models, None, sorted(models[0].weights.entries), False)
entries = {{name: _first_entry(parents, name) for name in parents.names}}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file, names in plan_shards(entries, 10**9).items():
    with ShardWriter(root / "out.safetensors", names, entries) as writer:
        for name in names:
            combine = lambda name, tensors, base: slerp(*tensors, 0.5)
            writer.write(name, _merged(name, parents, combine, Moves(parents)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) * 1024 < 64e6
    assert (tmp_path / "out.safetensors").stat().st_size > 96e6
