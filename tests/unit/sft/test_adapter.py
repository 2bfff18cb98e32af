"""Adapters kept by themselves: bound to their base, loaded on it alone, stacked and merged."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from tasks.artefacts import Store, commit, open_store
from tasks.merge import METHODS as MERGE
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.release.whole import whole_model
from tasks.sft import METHODS
from tasks.stage import Input, Result
from tasks.training.trainable.adapter_files import base_of, check_base, combine, merged, stack
from tests.conftest import new_context
from tests.unit.sft.test_completion import CHATS, FAST, weights

METHOD = METHODS["adapter"]
BASE = "b" * 64
IDS = torch.arange(24).reshape(2, 12)


def train(
    model: Path, folder: Path, *, lr: float = 2e-2, epochs: float = 1.0, **options: Any
) -> tuple[Any, Result]:
    rows = folder / "rows"
    rows.mkdir(parents=True)
    (rows / "rows.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    given = {
        "model": Input("start", BASE, "model", model),
        "data": Input("data.chats", "c" * 64, "chats", rows),
    }
    context = new_context(folder / "context", given, step="tuned")
    chosen = FAST | {"lr": lr, "epochs": epochs, "lora_rank": 2} | options
    chosen = {name: value for name, value in chosen.items() if value is not None}
    return context, METHOD.run(context, METHOD.options.model_validate(chosen))


@pytest.fixture(scope="module")
def tuned(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """A kept LoRA adapter, the whole model that came with it, and the step's result."""
    context, result = train(tiny_model_dir, tmp_path_factory.mktemp("adapter"))
    return context.output("adapter"), context.output("model"), result


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def test_the_step_gives_the_adapter_first_and_the_whole_model(tuned: tuple[Path, Path, Result]) -> None:
    adapter, whole, result = tuned
    assert list(METHOD.outputs) == ["adapter", "model", "log"]
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
    ]
    size = (adapter / "adapter_model.safetensors").stat().st_size
    assert result.meta["adapter"]["adapter_bytes"] == size < (whole / "model.safetensors").stat().st_size / 2
    assert result.meta["adapter"]["base"] == BASE
    for fact in ("tokenizer", "architecture", "vocab_size", "hidden", "layers", "parameters"):
        assert result.meta["adapter"][fact] == result.meta["model"][fact]


def test_what_peft_itself_loads_is_the_model_that_was_merged(
    tuned: tuple[Path, Path, Result], tiny_model_dir: Path
) -> None:
    adapter, whole, _ = tuned
    start = logits(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    beside = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), str(adapter)
    ).eval()
    together = logits(AutoModelForCausalLM.from_pretrained(whole))
    torch.testing.assert_close(logits(beside), together, rtol=1e-4, atol=1e-4)
    assert float((together - start).abs().max()) > 0.05


def test_merging_again_gives_the_same_weights_bit_for_bit(
    tuned: tuple[Path, Path, Result], tiny_model_dir: Path, tmp_path: Path
) -> None:
    adapter, whole, _ = tuned
    again = merged(tiny_model_dir, BASE, [adapter], tmp_path / "again")
    assert (again / "tokenizer.json").read_bytes() == (whole / "tokenizer.json").read_bytes()
    first, second = weights(whole), weights(again)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list(tmp_path.glob("*.probe"))


def test_another_base_is_refused(
    tuned: tuple[Path, Path, Result], tiny_model_dir: Path, tmp_path: Path
) -> None:
    adapter, _, _ = tuned
    assert base_of(adapter).digest == BASE
    for act in (
        lambda: check_base(adapter, tiny_model_dir, "d" * 64),
        lambda: stack(tiny_model_dir, "d" * 64, [adapter]),
        lambda: combine(tiny_model_dir, "d" * 64, [adapter]),
    ):
        with pytest.raises(ConfigInvalid, match=rf"was trained beside the model {BASE}, not {'d' * 64}"):
            act()
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text + "\n")
    with pytest.raises(DataInvalid, match="its tokenizer is not the one"):
        check_base(adapter, other, BASE)
    with pytest.raises(DataInvalid, match="no adapter of ours"):
        base_of(tiny_model_dir)


def test_stacked_adapters_add_up_and_merge_into_the_same(
    tuned: tuple[Path, Path, Result], tiny_model_dir: Path, tmp_path: Path
) -> None:
    first, _, _ = tuned
    context, _ = train(tiny_model_dir, tmp_path / "second", lr=1e-2, trainable="rslora")
    second = context.output("adapter")
    together, _ = combine(tiny_model_dir, BASE, [first, second])
    start = weights(tiny_model_dir)
    alone = [combine(tiny_model_dir, BASE, [each])[0].state_dict() for each in (first, second)]
    for name, tensor in together.state_dict().items():
        expected = alone[0][name] + alone[1][name] - start[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)
    half, _ = combine(tiny_model_dir, BASE, [first], [0.5])
    name = "model.layers.0.self_attn.q_proj.weight"
    moved, whole = half.state_dict()[name] - start[name], alone[0][name] - start[name]
    torch.testing.assert_close(moved, 0.5 * whole, rtol=1e-3, atol=1e-6)
    stacked, _ = stack(tiny_model_dir, BASE, [first, second])
    torch.testing.assert_close(logits(stacked), logits(together), rtol=1e-4, atol=1e-4)


def test_what_does_not_add_up_is_not_stacked(
    tuned: tuple[Path, Path, Result], tiny_model_dir: Path, tmp_path: Path
) -> None:
    first, _, _ = tuned
    odd = shutil.copytree(first, tmp_path / "odd")
    bound = json.loads((odd / "base.json").read_text())
    (odd / "base.json").write_text(json.dumps(bound | {"trainable": "ia3"}))
    with pytest.raises(ConfigInvalid, match="'ia3' do not add up with others"):
        stack(tiny_model_dir, BASE, [first, odd])
    with pytest.raises(ConfigInvalid, match=r"a weight of 0\.5 means nothing"):
        combine(tiny_model_dir, BASE, [odd], [0.5])
    with pytest.raises(ConfigInvalid, match="there is no adapter"):
        stack(tiny_model_dir, BASE, [])
    (odd / "base.json").write_text(json.dumps(bound))
    (odd / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(DataInvalid, match="cannot be loaded"):
        stack(tiny_model_dir, BASE, [odd])


def test_the_merge_stage_merges_them(
    tuned: tuple[Path, Path, Result], tiny_model_dir: Path, make_context: Callable[..., Any]
) -> None:
    adapter, whole, _ = tuned
    method = MERGE["adapters"]

    def run(base: str, **options: Any) -> Any:
        given = {
            "base": Input("champion.base", base, "model", tiny_model_dir),
            "adapters": [Input("tuned", "a" * 64, "adapter", adapter)],
        }
        context = make_context(given)
        return context, method.run(context, method.options.model_validate(options))

    context, result = run(BASE)
    first, second = weights(whole), weights(context.output("model"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert result.figure == "tuned x 1 merged into champion.base"
    assert result.meta["model"]["base"] == BASE
    with pytest.raises(ConfigInvalid, match="was trained beside"):
        run("d" * 64)
    with pytest.raises(ConfigInvalid, match="has 2 entries for 1"):
        run(BASE, weights=[1.0, 2.0])


def test_an_artefact_of_an_adapter_reads_as_the_whole_model(
    tuned: tuple[Path, Path, Result], tiny_model_dir: Path, tmp_path: Path
) -> None:
    adapter, whole, _ = tuned
    store: Store = open_store(f"file://{tmp_path}/store")
    base = commit(store, tiny_model_dir, kind="model", parents=[], producer="t", meta={}).digest
    own = shutil.copytree(adapter, tmp_path / "own")
    bound = json.loads((own / "base.json").read_text())

    def read(digest: str, name: str) -> Path:
        (own / "base.json").write_text(json.dumps(bound | {"digest": digest}))
        made = commit(store, own, kind="adapter", parents=[digest], producer="t", meta={}).digest
        return whole_model(store, made, cache=tmp_path / "cache", scratch=tmp_path / name)

    first, second = weights(whole), weights(read(base, "merged"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(Exception, match="no such object"):
        read(hashlib.sha256(b"").hexdigest(), "none")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trainable": "full"}, "full makes no adapter to keep; use one of lora"),
        ({"trainable": "prompt"}, "prompt makes no adapter to keep"),
        ({"trainable": "pissa"}, "fits no model that is kept"),
    ],
)
def test_only_adapters_that_can_be_kept_are_trained(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        METHOD.options.model_validate(options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dora", "eva", "adalora", "loha", "lokr", "vera", "ia3"])
def test_every_kind_of_adapter_comes_back(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    shaped: dict[str, Any] = {} if kind != "ia3" else {"lora_rank": None}
    more: dict[str, Any] = {"epochs": 3.0} if kind == "adalora" else {}
    context, _ = train(tiny_model_dir, tmp_path / kind, trainable=kind, lr=1e-2, **shaped, **more)
    model, _ = combine(tiny_model_dir, BASE, [context.output("adapter")])
    first, second = weights(context.output("model")), model.state_dict()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=1e-6)
