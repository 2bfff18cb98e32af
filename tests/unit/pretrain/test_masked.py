"""Masked language modelling: what is hidden, that it is drawn anew and reproducibly, and the training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from tasks.prepare.methods import pack
from tasks.pretrain import METHODS
from tasks.pretrain.masking import MaskedSamples, hide, units, vocabulary_of
from tasks.recipe.failures import ConfigInvalid, Infrastructure, Preempted
from tasks.training.interface import NOT_SUPERVISED
from tasks.training.masked_models import load_masked_model, masked_probe, save_masked_model
from tasks.training.objectives.masked_lm import MASKED_LM, masked_logits
from tasks.training.packed import PackedSamples
from tests.conftest import tiny_texts

METHOD = METHODS["masked"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(
        tiny_texts(80), trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIALS, show_progress=False)
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=core, **dict(zip(names, SPECIALS, strict=True)))


def encoder(architecture: str) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 90,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    if architecture == "bert":
        bert: torch.nn.Module = BertForMaskedLM(BertConfig(**sizes))
        return bert
    modern: torch.nn.Module = ModernBertForMaskedLM(
        ModernBertConfig(**sizes, bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3)
    )
    return modern


@pytest.fixture(params=["bert", "modernbert"])
def model_dir(request, tokenizer, tmp_path) -> Path:
    directory: Path = tmp_path / request.param
    save_masked_model(encoder(request.param), tokenizer, directory)
    return directory


@pytest.fixture
def tokens(model_dir, make_context, write_rows, tmp_path) -> Path:
    documents = write_rows("text", [{"key": str(i), "text": text} for i, text in enumerate(tiny_texts(80))])
    context = make_context(
        {"documents": ("documents", documents), "model": ("model", model_dir)}, directory=tmp_path / "pack"
    )
    pack.run(context, pack.PackOptions(sequence_length=64))
    return Path(context.output("tokens"))


SHARES: dict[str, Any] = {"share": 0.15, "masked": 0.8, "swapped": 0.1, "whole_word": False}


def test_of_15_percent_80_are_masked_10_swapped_and_10_kept(tokenizer):
    vocabulary = vocabulary_of(tokenizer, whole_word=False)
    draw = np.random.default_rng(0)
    ids = np.concatenate([[2], draw.choice(vocabulary.ordinary, 40_000), [3]])
    hidden, labels = hide(ids, vocabulary, draw, **SHARES)
    chosen = labels != NOT_SUPERVISED
    assert chosen.sum() == 6000
    assert (labels[chosen] == ids[chosen]).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert not chosen[[0, -1]].any()
    masked, kept = (hidden[chosen] == vocabulary.mask).mean(), (hidden[chosen] == ids[chosen]).mean()
    assert masked == pytest.approx(0.8, abs=0.02)
    assert kept == pytest.approx(0.1 + 0.1 / len(vocabulary.ordinary), abs=0.015)
    assert np.isin(hidden[chosen], [vocabulary.mask, *vocabulary.ordinary]).all()


def test_one_token_at_least_is_hidden_and_special_ones_never(tokenizer):
    vocabulary = vocabulary_of(tokenizer, whole_word=False)
    for seed in range(20):
        _, labels = hide(np.array([2, 10, 11, 3]), vocabulary, np.random.default_rng(seed), **SHARES)
        assert (labels != NOT_SUPERVISED).sum() == 1
    hidden, labels = hide(np.array([2, 3]), vocabulary, np.random.default_rng(0), **SHARES)
    assert hidden.tolist() == [2, 3]
    assert (labels == NOT_SUPERVISED).all()


def test_whole_words_are_hidden_whole(tokenizer):
    vocabulary = vocabulary_of(tokenizer, whole_word=True)
    text = "the function mapping returned another iterator when called"
    ids = np.array(tokenizer(f"[CLS] {text} [SEP]", add_special_tokens=False)["input_ids"])
    words = [
        tokenizer.decode(ids[unit]).replace(" ", "").replace("##", "")
        for unit in units(ids, vocabulary, True)
    ]
    assert words == text.split()
    assert max(len(unit) for unit in units(ids, vocabulary, True)) > 1
    split = 0
    for seed in range(30):
        for whole in (True, False):
            _, labels = hide(ids, vocabulary, np.random.default_rng(seed), **{**SHARES, "whole_word": whole})
            parts = [labels[unit] != NOT_SUPERVISED for unit in units(ids, vocabulary, True)]
            broken = sum(part.any() and not part.all() for part in parts)
            assert not (whole and broken)
            split += broken
    assert split > 0  # single tokens do break words


def test_byte_level_words_begin_with_their_space(tiny_model_dir):
    from tasks.training.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model_dir)
    tokenizer.mask_token = "<|pad|>"  # none of its own; any will do here
    vocabulary = vocabulary_of(tokenizer, whole_word=True)
    ids = np.array(tokenizer("the mapping is another iterator", add_special_tokens=False)["input_ids"])
    found = [tokenizer.decode(ids[unit]) for unit in units(ids, vocabulary, True)]
    assert found == ["the", " mapping", " is", " another", " iterator"]


def test_words_that_nothing_marks_are_refused():
    core = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[MASK]": 2}, unk_token="a"))
    plain = PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]")
    with pytest.raises(ConfigInvalid, match="set whole_word: false"):
        vocabulary_of(plain, whole_word=True)
    vocabulary_of(plain, whole_word=False)


def test_masks_are_a_pure_function_of_seed_epoch_and_index(tokens, tokenizer):
    def made(seed: int = 0) -> MaskedSamples:
        return MaskedSamples(
            PackedSamples(tokens), vocabulary_of(tokenizer, whole_word=False), **SHARES, seed=seed
        )

    one, other, rows = made(), made(), len(made())
    first = one.batch([3, rows + 3])
    assert all(torch.equal(value, other.batch([3, rows + 3])[name]) for name, value in first.items())
    assert not torch.equal(one.batch([3])["labels_BT"], one.batch([rows + 3])["labels_BT"])
    assert not torch.equal(one.batch([3])["labels_BT"], made(seed=1).batch([3])["labels_BT"])


def test_documents_do_not_see_each_other(model_dir, tokens, tokenizer):
    model, _ = load_masked_model(model_dir)
    packed = PackedSamples(tokens)
    samples = MaskedSamples(packed, vocabulary_of(tokenizer, whole_word=False), **SHARES, seed=0)
    index = next(i for i in range(len(packed)) if len(packed.pieces(i)) > 2)
    batch = samples.batch([index])
    together, _ = masked_logits(model, batch)
    alone = []
    for ids, labels in samples.row(index):
        row = {"input_ids_BT": ids, "attention_mask_BT": np.ones_like(ids), "labels_BT": labels}
        alone.append(masked_logits(model, {n: torch.from_numpy(v)[None] for n, v in row.items()})[0])
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert MASKED_LM.weight(batch) == len(together)


@pytest.mark.slow
def test_it_learns_and_a_stopped_training_goes_on_to_the_same_weights(
    model_dir, tokens, make_context, tmp_path
):
    options = METHOD.options.model_validate(
        {"batch_size": 4, "lr": 3e-3, "threads": 1, "epochs": 4.0, "whole_word": True}
    )
    found = []
    for stop_after in (None, 9):
        context: Any = make_context(
            {"model": ("model", model_dir), "data": ("tokens", tokens)}, directory=tmp_path / str(stop_after)
        )
        context.stop_after = stop_after
        if stop_after:
            with pytest.raises(Preempted):
                METHOD.run(context, options)
            context.stop_after = None
        result = METHOD.run(context, options)
        found.append((context.output("model") / "model.safetensors").read_bytes())
    assert result.metrics["loss"] < result.metrics["first_loss"] - 0.3
    assert found[0] == found[1]
    trained, _ = load_masked_model(context.output("model"))
    start, _ = load_masked_model(model_dir)
    assert float((masked_probe(trained) - masked_probe(start)).abs().max()) > 0.01


def test_what_is_saved_is_compared(tokenizer, tmp_path, monkeypatch):
    model = encoder("bert")

    def faulty(directory: str) -> None:
        BertForMaskedLM.save_pretrained(encoder_with_other_weights(), directory)

    def encoder_with_other_weights() -> torch.nn.Module:
        other = encoder("bert")
        with torch.no_grad():
            other.bert.embeddings.word_embeddings.weight.mul_(1.1)  # type: ignore[union-attr, operator]
        return other

    monkeypatch.setattr(model, "save_pretrained", faulty)
    with pytest.raises(Infrastructure, match="does not give back its logits"):
        save_masked_model(model, tokenizer, tmp_path / "model")


def test_a_causal_model_is_refused(tiny_model_dir, tokens, make_context):
    with pytest.raises(ConfigInvalid, match="masked language model"):
        load_masked_model(tiny_model_dir)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masked": 0.8, "swapped": 0.3}, "more than all"),
        ({"loss_chunk": 8}, "loss_chunk has no effect"),
        ({"trainable": "lora"}, "set trainable: full"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        METHOD.options.model_validate(options)
