"""Which options go together; how adapters, halves and ranks are shaped."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tasks.recipe.failures import ConfigInvalid
from tasks.training.blocks import depths, find_blocks
from tasks.training.options import TrainOptions
from tasks.training.trainable.adapter import add_adapter
from tasks.training.trainable.lora import adalora
from tasks.training.trainable.others import ia3
from tasks.training.trainable.weights import freeze, half, layernorm


def llama(layers: int = 4) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=3, n_head=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 8}, "lora_rank has no effect while trainable is full; set trainable: lora or"),
        ({"trainable": "vera", "lora_alpha": 1.0}, "lora_alpha has no effect while trainable is vera"),
        ({"trainable": "ia3", "lora_targets": ["q_proj"]}, "lora_targets has no effect"),
        ({"trainable": "loha", "lora_plus": 16.0}, "lora_plus has no effect while trainable is loha"),
        ({"trainable": "prefix"}, "no whole model can hold"),
        ({"trainable": "p_tuning"}, "so it is for fine-tuning; use lora"),
        ({"trainable": "lora", "frozen": ["*"]}, "frozen has no effect with an adapter"),
        ({"trainable": "lora", "l2_start": 1.0}, "l2_start is about the model's own weights"),
        ({"trainable": "lora", "mixout": 0.5}, "mixout is about the model's own weights"),
        ({"trainable": "adalora", "zero_stage": 1}, "trainable adalora works on whole fp32"),
        ({"decay": 0.1}, "decay has no effect with schedule cosine"),
        ({"schedule": "constant", "min_lr": 0.5}, "min_lr has no effect with schedule constant"),
        ({"schedule": "inverse_sqrt", "warmup": 0.0}, "inverse_sqrt needs a warmup"),
        ({"zero_stage": 3, "kl_weight": 1.0}, "kl_weight needs whole parameters"),
        ({"zero_stage": 3, "l2_start": 1.0}, "l2_start needs whole parameters"),
        ({"zero_stage": 3, "mixout": 0.5}, "mixout needs whole parameters"),
        ({"zero_stage": 3, "ema": 0.9}, "ema needs whole parameters"),
        ({"zero_stage": 3, "compile": True}, "compile cannot see"),
        ({"mixout": 0.5, "compile": True}, "mixout replaces what the layers compute"),
        ({"muon_lr": 0.1}, "muon_lr has no effect without optimiser: muon"),
        ({"muon_momentum": 0.1}, "muon_momentum has no effect without optimiser: muon"),
        ({"optimiser": "muon", "zero_stage": 1}, "optimiser muon works on whole fp32 matrices"),
        ({"optimiser": "muon", "precision": "bf16"}, "optimiser muon works on whole fp32 matrices"),
        ({"optimiser": "adamw_8bit", "zero_stage": 2}, "optimiser adamw_8bit works on whole fp32"),
        ({"optimiser": "muon", "trainable": "lora", "lora_plus": 2.0}, "lora_plus is a rate of AdamW"),
        ({"offload_optimiser": True}, "offload_optimiser is a part of ZeRO"),
        ({"offload_parameters": True, "zero_stage": 2}, "offload_parameters is a part of ZeRO 3"),
    ],
)
def test_a_combination_that_cannot_work_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        TrainOptions.model_validate(options)


def test_what_stands_beside_the_blocks_has_a_depth():
    for model, prefix, blocks in ((llama(), "model.layers", 4), (gpt2(), "transformer.h", 3)):
        assert find_blocks(model)[0] == prefix
        depth, top = depths(model)
        assert top == blocks + 1
        assert {depth[name] for name in depth if "emb" in name or "wte" in name or "wpe" in name} == {0}
        assert {depth[name] for name in depth if name.startswith(f"{prefix}.2.")} == {3}
        last = "model.norm.weight" if blocks == 4 else "transformer.ln_f.weight"
        assert depth[last] == top
        assert depth.keys() == dict(model.named_parameters()).keys()


def test_a_model_without_blocks_has_no_depth():
    with pytest.raises(ConfigInvalid, match="has no list of blocks"):
        depths(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("make", [llama, gpt2])
def test_half_of_each_category_of_a_block_is_trained(make):
    model = make()
    half(model, 0)
    blocks: list[Any] = list(find_blocks(model)[1])
    shares = [sum(p.numel() for p in b.parameters() if p.requires_grad) for b in blocks]
    whole = sum(p.numel() for p in blocks[0].parameters())
    assert sum(shares) / len(blocks) == pytest.approx(whole / 2, rel=0.25)
    for block in blocks:
        norms = [p for m in block.modules() if "norm" in type(m).__name__.lower() for p in m.parameters()]
        assert sum(p.requires_grad for p in norms) == len(norms) / 2
    if make is llama:
        for block in blocks:
            assert sum(p.requires_grad for p in block.self_attn.parameters()) == 2
        trained = sorted(sum(p.requires_grad for p in block.mlp.parameters()) for block in blocks)
        assert trained == [1, 1, 2, 2]


def test_the_seed_draws_the_half():
    def drawn(seed: int) -> list[str]:
        model = llama()
        half(model, seed)
        return [name for name, p in model.named_parameters() if p.requires_grad]

    assert drawn(0) == drawn(0) != drawn(1)


def test_layernorm_training_takes_scales_and_biases():
    model = gpt2()
    layernorm(model, 0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".ln_" in name}
    assert len(trained) == 2 * (2 * 3 + 1)


def test_a_pattern_without_a_parameter_is_refused_with_names_that_are_near():
    model = llama()
    freeze(model, ["model.layers.0.*", "model.layers.[12].mlp.*"])
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 9 + 3 + 3
    with pytest.raises(ConfigInvalid, match=r"'model.embed_token.weight'.*near: model.embed_tokens.weight"):
        freeze(model, ["model.embed_token.weight"])


def test_adalora_needs_a_step_to_prune_in():
    options = TrainOptions(trainable="adalora", lora_rank=4)
    config = adalora(options, 100, 0)
    assert (config.init_r, config.target_r, config.tinit, config.tfinal) == (6, 4, 10, 30)
    with pytest.raises(ConfigInvalid, match="more than 0 optimiser steps"):
        adalora(options, 0, 0)


def test_an_architecture_that_ia3_has_no_table_for_is_refused(monkeypatch):
    monkeypatch.setattr(LlamaConfig, "model_type", "unheard-of")
    with pytest.raises(ConfigInvalid, match="ia3 does not know which layers of LlamaForCausalLM"):
        add_adapter(llama(), ia3(TrainOptions(trainable="ia3"), 1, 0), 0)
