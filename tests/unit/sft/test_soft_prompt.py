"""Soft prompts: a tuned model is the start model with some more tokens, which its template writes first."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tasks.recipe.failures import ConfigInvalid
from tasks.sft import METHODS
from tasks.training.chats import ChatSamples, render_chats
from tasks.training.models import load_model, load_tokenizer
from tasks.training.objectives.causal_lm import CAUSAL_LM
from tasks.training.options import SOFT_PROMPTS, TrainOptions
from tasks.training.render import render_prompt
from tasks.training.trainable.soft_prompt import add_soft_prompt
from tests.conftest import new_context
from tests.unit.sft.test_completion import ANSWERS, FAST, run, weights

METHOD = METHODS["completion"]
QUESTION = [{"role": "user", "content": "the key"}]
LEARNT: dict[str, Any] = {"prompt": {"lr": 0.1}, "p_tuning": {"lr": 1e-2}}


def conversations(answer: str | None = None) -> list[dict[str, Any]]:
    """Six questions for each of four subjects; with the subject's answer, or all with the same."""
    return [
        {
            "key": f"{number}-{subject}",
            "messages": [
                {"role": "user", "content": "the " * number + subject},
                {"role": "assistant", "content": answer or own},
            ],
        }
        for number in range(1, 7)
        for subject, own in ANSWERS.items()
    ]


def answer_loss(model_dir: Path, chats: Sequence[dict[str, Any]]) -> float:
    """Mean loss of the answers' tokens."""
    model, tokenizer = load_model(model_dir)
    rows = render_chats(chats, tokenizer, max_length=64, too_long="drop", turns="all").rows
    batch = ChatSamples([row for _, row in rows], 0).batch(range(len(rows)))
    with torch.no_grad():
        return float(CAUSAL_LM.loss(model, batch)[0]) / CAUSAL_LM.weight(batch)


@pytest.fixture
def chats(write_rows: Callable[..., Path]) -> Path:
    return write_rows("chats", conversations())


@pytest.fixture(scope="module")
def taught(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives each subject its answer."""
    folder = tmp_path_factory.mktemp("taught")
    rows = "".join(json.dumps(chat) + "\n" for chat in conversations())
    (folder / "rows.jsonl").write_text(rows)
    inputs = {"model": ("model", tiny_model_dir), "data": ("chats", folder)}
    context = new_context(folder / "context", inputs)
    METHOD.run(context, METHOD.options.model_validate(FAST | {"epochs": 12.0, "packing": False}))
    return Path(context.output("model"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOFT_PROMPTS)
def test_a_prompt_decides_what_a_frozen_model_answers(kind, make_context, taught, write_rows):
    wanted = conversations("is a string")
    options = {"trainable": kind, "prompt_tokens": 5, "epochs": 12.0, "packing": False, **LEARNT[kind]}
    context, result = run(make_context, taught, write_rows("wanted", wanted), **options)
    tuned = context.output("model")
    assert answer_loss(tuned, wanted) < 0.6 * answer_loss(taught, wanted)
    start, after = weights(taught), weights(tuned)
    for name, tensor in start.items():
        assert torch.equal(after[name][: len(tensor)], tensor), name
    assert len(after["model.embed_tokens.weight"]) == len(start["model.embed_tokens.weight"]) + 5

    tokenizer, old = load_tokenizer(tuned), load_tokenizer(taught)
    soft = list(range(len(old), len(old) + 5))
    assert render_prompt(tokenizer, QUESTION) == [*soft, *render_prompt(old, QUESTION)]
    assert tokenizer("a text").input_ids == old("a text").input_ids
    model, _ = load_model(tuned)
    assert model.generation_config is not None
    assert model.generation_config.suppress_tokens == soft
    assert result.meta["model"]["vocab_size"] == len(old) + 5


def test_text_without_the_prompt_meets_the_start_model(make_context, taught, chats):
    context, _ = run(make_context, taught, chats, trainable="prompt", prompt_tokens=3, lr=0.1)
    ids_BT = torch.arange(6, 30)[None]
    with torch.no_grad():
        before_BTV = load_model(taught)[0](input_ids=ids_BT).logits
        after_BTV = load_model(context.output("model"))[0](input_ids=ids_BT).logits
    vocabulary = before_BTV.shape[-1]
    torch.testing.assert_close(after_BTV[..., :vocabulary], before_BTV)
    added_BT = torch.logsumexp(after_BTV, -1) - torch.logsumexp(before_BTV, -1)
    assert float(added_BT.max()) <= torch.log1p(torch.tensor(3 / vocabulary)) + 1e-5


def test_packed_conversations_each_have_the_prompt(tiny_model_dir):
    model, tokenizer = load_model(tiny_model_dir)
    add_soft_prompt(model, tokenizer, "prompt", 3, 0)
    rows = render_chats(conversations(), tokenizer, max_length=64, too_long="drop", turns="all").rows
    rendered = [row for _, row in rows]
    gradients = []
    for capacity in (64, None):
        samples = ChatSamples(rendered, 0, capacity)
        model.zero_grad()
        torch.autograd.backward(CAUSAL_LM.loss(model, samples.batch(range(len(samples))))[0])
        gradients.append(next(p.grad.clone() for p in model.parameters() if p.grad is not None))
    assert gradients[0].shape[0] == 3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_the_first_vectors_are_rows_of_the_vocabulary_and_follow_the_seed(tiny_model_dir):
    drawn = []
    for seed in (0, 0, 1):
        model, tokenizer = load_model(tiny_model_dir)
        rows_VD = model.get_input_embeddings().weight.detach().clone()
        add_soft_prompt(model, tokenizer, "prompt", 4, seed)
        vectors_ND = model.get_input_embeddings().vectors()
        assert (vectors_ND[:, None] == rows_VD[None]).all(-1).any(-1).all()
        drawn.append(vectors_ND)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == vectors_ND.numel()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_second_prompt_is_refused_and_full_training_goes_on(make_context, tiny_model_dir, chats, tmp_path):
    context, _ = run(make_context, tiny_model_dir, chats, trainable="prompt", prompt_tokens=3)
    tuned = Path(shutil.copytree(context.output("model"), tmp_path / "tuned"))
    with pytest.raises(ConfigInvalid, match="already has a soft prompt"):
        run(make_context, tuned, chats, directory=tmp_path / "second", trainable="p_tuning")
    again, result = run(make_context, tuned, chats, directory=tmp_path / "full")
    assert result.metrics["loss"] < result.metrics["first_loss"]
    assert load_tokenizer(again.output("model")).chat_template == load_tokenizer(tuned).chat_template


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_tokens": 5}, "prompt_tokens has no effect while trainable is full"),
        ({"trainable": "prefix"}, "no whole model can hold; use prompt or p_tuning"),
        ({"trainable": "prompt", "kl_weight": 1.0}, "kl_weight would hold to"),
        ({"trainable": "prompt", "frozen": ["*"]}, "frozen has no effect with an adapter"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        METHOD.options.model_validate(FAST | options)


def test_only_fine_tuning_has_prompts():
    with pytest.raises(ValidationError, match="so it is for fine-tuning"):
        TrainOptions.model_validate({"trainable": "prompt"})
