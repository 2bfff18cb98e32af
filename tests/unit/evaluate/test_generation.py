"""Batched generation says what one prompt at a time would, whatever the batch."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace
from tokenizers.models import WordLevel
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TopPLogitsWarper,
)

from tasks.evaluate.generation import (
    Continuation,
    Decoding,
    Prompt,
    generate,
    next_tokens,
    prompt_tokens,
    speaks_chat,
    stop_tokens,
)
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.stage import Input
from tests.conftest import tiny_texts
from tests.unit.evaluate.taught import Copier, teach

NO_END: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def llama(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


@pytest.fixture(scope="module")
def wild(llama: Subject) -> Subject:
    """Large weights, so that prompts are gone on with in different ways."""
    torch.manual_seed(0)
    config = copy.deepcopy(llama.model.config)
    config.initializer_range = 0.3
    return dataclasses.replace(llama, model=LlamaForCausalLM(config).eval())


@pytest.fixture(scope="module")
def gpt2(llama: Subject) -> Subject:
    """Learned absolute positions: a wrong position is seen at once."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3
    )
    return dataclasses.replace(llama, model=GPT2LMHeadModel(config).eval())


def prompts_of(subject: Subject, count: int = 20) -> list[Prompt]:
    """Prompts of very different lengths."""
    texts = tiny_texts(count, seed=3)
    return [Prompt(f"p{i}", prompt_tokens(subject, "", text, chat=False)) for i, text in enumerate(texts)]


@pytest.mark.parametrize("architecture", ["wild", "gpt2"])
def test_greedy_text_is_that_of_transformers_for_every_batch_size(architecture, request):
    subject = request.getfixturevalue(architecture)
    prompts = prompts_of(subject)
    free = generate(subject, prompts, Decoding(12, NO_END), 64)
    used = [set(each.tokens) for each in free]
    end = next(token for token in sorted(used[0]) if sum(token in each for each in used) < len(used))
    found = {size: generate(subject, prompts, Decoding(12, frozenset({end})), size) for size in (1, 7, 64)}
    assert found[1] == found[7] == found[64]
    assert len({each.tokens for each in free}) == len(prompts)
    assert {each.ended for each in found[1]} == {"stop token", "length"}
    for prompt, said in zip(prompts, found[7], strict=True):
        with torch.no_grad():
            whole = subject.model.generate(
                torch.tensor([prompt.tokens]),
                attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=0,
            )[0, len(prompt.tokens) :].tolist()
        assert list(said.tokens) == (whole[:-1] if whole[-1] == end else whole)


def test_sampled_text_depends_on_seed_key_and_sample_but_not_on_batch_or_order(llama):
    prompts = [
        dataclasses.replace(each, sample=sample) for each in prompts_of(llama, 6) for sample in range(4)
    ]
    decoding = Decoding(8, NO_END, temperature=1.0, top_p=0.9, seed=5)
    found = [generate(llama, prompts, decoding, size) for size in (1, 7, 64)]
    assert found[0] == found[1] == found[2]
    assert generate(llama, prompts[::-1], decoding, 7)[::-1] == found[0]
    assert len({each.tokens for each in found[0]}) == len(prompts)
    other = generate(llama, prompts, dataclasses.replace(decoding, seed=6), 7)
    assert all(one.tokens != two.tokens for one, two in zip(found[0], other, strict=True))


def test_tokens_are_drawn_as_often_as_their_probability_says_and_none_beyond_top_p():
    torch.manual_seed(0)
    logits_BV = torch.randn(1, 20)
    uniforms_B = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn_B = next_tokens(logits_BV.expand(20_000, -1), 0.7, 0.8, uniforms_B)
    kept_V = TopPLogitsWarper(0.8)(torch.zeros(1, 1, dtype=torch.long), logits_BV / 0.7)[0].double()
    share_V = torch.bincount(drawn_B, minlength=20) / 20_000
    torch.testing.assert_close(share_V.double(), torch.softmax(kept_V, 0), atol=2e-4, rtol=0)
    assert int((share_V > 0).sum()) == int(kept_V.isfinite().sum()) < 20
    assert next_tokens(logits_BV, 0.0, 1.0, uniforms_B[:1]).item() == logits_BV.argmax().item()


def test_a_stop_string_ends_the_text_wherever_its_tokens_begin(llama):
    prompt = Prompt("p", prompt_tokens(llama, "", "the value", chat=False))
    taught = teach(llama, [(prompt.tokens, " of an object.\nNo more of it")])
    (said,) = generate(taught, [prompt], Decoding(30, NO_END, stops=("ect.\nN", "never")), 1)
    assert (said.text, said.ended) == (" of an obj", "stop string")
    (whole,) = generate(taught, [prompt], Decoding(30, stop_tokens(taught, chat=False)), 1)
    assert (whole.text, whole.ended) == (" of an object.\nNo more of it", "stop token")


def test_a_character_of_several_tokens_is_whole_in_the_text(llama):
    prompt = Prompt("p", prompt_tokens(llama, "", "the value", chat=False))
    taught = teach(llama, [(prompt.tokens, " ÿ日本 é")])
    (said,) = generate(taught, [prompt], Decoding(30, stop_tokens(taught, chat=False)), 1)
    assert said.text == " ÿ日本 é"


def test_a_decoder_that_drops_the_first_space_does_not_take_it_from_a_continuation(wild):
    """SentencePiece's way of writing words: code that loses a space of its indentation is no code."""
    words = Tokenizer(WordLevel({f"\u2581w{i}": i for i in range(300)}, unk_token="\u2581w0"))
    words.decoder = Metaspace()
    subject = dataclasses.replace(wild, tokenizer=PreTrainedTokenizerFast(tokenizer_object=words))
    (said,) = generate(subject, [Prompt("p", (5, 6, 7))], Decoding(2, NO_END), 1)
    assert subject.tokenizer.decode(said.tokens) == " ".join(f"w{token}" for token in said.tokens)
    assert said.text == "".join(f" w{token}" for token in said.tokens)


def test_a_chat_prompt_is_the_templates_and_ends_with_the_turn(llama):
    tokenizer = llama.tokenizer
    tokens = prompt_tokens(llama, "k", "the value", chat=True)
    assert tokenizer.decode(tokens) == "<|bos|><|user|>the value<|eos|><|assistant|>"
    assert stop_tokens(llama, chat=True) == {tokenizer.eos_token_id}
    assert (speaks_chat(llama, "auto"), speaks_chat(llama, "plain")) == (True, False)


def test_the_token_that_ends_a_turn_stops_though_it_is_not_the_end_of_text(llama, tiny_model_dir):
    other = load_subject(Input("m", "d", "model", tiny_model_dir), 1024)
    other.tokenizer.chat_template = other.tokenizer.chat_template.replace("eos_token", "pad_token")
    assert stop_tokens(other, chat=True) == {llama.tokenizer.eos_token_id, llama.tokenizer.pad_token_id}
    assert stop_tokens(other, chat=False) == {llama.tokenizer.eos_token_id}


def test_without_a_template_the_prompt_is_the_text_behind_the_prefix(tiny_model_dir):
    bare = load_subject(Input("m", "d", "model", tiny_model_dir), 1024)
    bare.tokenizer.chat_template = None
    assert not speaks_chat(bare, "auto")
    assert prompt_tokens(bare, "k", "the value", chat=False) == (*bare.prefix, *bare.encode("the value"))
    with pytest.raises(ConfigInvalid, match="has no chat template"):
        speaks_chat(bare, "chat")


def test_what_cannot_be_generated_from_is_refused_by_name(llama):
    with pytest.raises(DataInvalid, match="prompt 'long' has 250 tokens"):
        generate(llama, [Prompt("long", (5,) * 250)], Decoding(10, NO_END), 1)
    with pytest.raises(DataInvalid, match="prompt 'none' has no tokens"):
        generate(llama, [Prompt("none", ())], Decoding(10, NO_END), 1)
    copier = dataclasses.replace(llama, model=Copier(300, 10))
    with pytest.raises(ConfigInvalid, match="no key-value cache"):
        generate(copier, [Prompt("p", (5,))], Decoding(10, NO_END), 1)


def test_numbers_that_are_not_finite_name_the_prompt(gpt2):
    broken = dataclasses.replace(gpt2, model=copy.deepcopy(gpt2.model))
    with torch.no_grad():
        broken.model.transformer.wpe.weight[4] = float("nan")
    prompts = [Prompt("good", (10, 11)), Prompt("bad", (10, 11, 12, 13, 14))]
    with pytest.raises(DataInvalid, match="not finite after prompt 'bad'"):
        generate(broken, prompts, Decoding(2, NO_END), 2)


def test_the_longest_continuation_is_as_long_as_asked(llama):
    said = generate(llama, prompts_of(llama, 3), Decoding(1, NO_END), 2)
    assert [len(each.tokens) for each in said] == [1, 1, 1]
    assert isinstance(said[0], Continuation)
