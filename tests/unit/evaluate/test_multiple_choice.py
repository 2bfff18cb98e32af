"""The shared question gives the scores of running every option by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from tasks.evaluate.multiple_choice import (
    PLAIN,
    TOLERANCE,
    Asked,
    asked,
    encode,
    score_exams,
    score_plain,
    score_tree,
    takes_tree,
    tree_holds,
)
from tasks.evaluate.rows import Exam
from tasks.evaluate.scoring import Subject, load_subject
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input

PROMPT = "Question: {question}\nAnswer:"
EXAMS = [
    Exam("a", "What is the value of an object?", ("a name", "a list of names", "the key", "it"), 1),
    Exam("b", "Which key?", ("every key of the mapping is a string", "none"), 0),
    Exam("c", "If the iterator has more items to give " * 3, ("it returns", "it returns another object"), 1),
    Exam("d", "?", ("x", "y", "z"), 2),
] * 3


@pytest.fixture(scope="module")
def subject(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


@pytest.fixture(scope="module")
def gpt2(subject: Subject) -> Subject:
    """Learned absolute positions, another architecture than Llama."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=256)
    return dataclasses.replace(subject, model=GPT2LMHeadModel(config).eval())


def by_hand(subject: Subject, exam: Exam) -> list[float]:
    found = []
    for option in exam.options:
        context = subject.encode(PROMPT.replace("{question}", exam.question))
        whole = subject.encode(PROMPT.replace("{question}", exam.question) + " " + option)
        ids = torch.tensor([[*subject.prefix, *whole]])
        with torch.no_grad():
            logprobs_TV = torch.log_softmax(subject.model(input_ids=ids).logits[0].double(), -1)
        begin = len(context) + len(subject.prefix)
        found.append(sum(float(logprobs_TV[t - 1, ids[0, t]]) for t in range(begin, ids.shape[1])))
    return found


@pytest.mark.parametrize("architecture", ["subject", "gpt2"])
def test_tree_and_plain_equal_one_forward_per_option(architecture: str, request: pytest.FixtureRequest):
    subject = request.getfixturevalue(architecture)
    questions = encode(subject, [asked(exam, PROMPT) for exam in EXAMS])
    assert takes_tree(subject)
    assert tree_holds(subject, questions, score_tree(subject, questions, 5))
    for run in (score_tree, score_plain):
        for exam, values in zip(EXAMS, run(subject, questions, 5), strict=True):
            assert values == pytest.approx(by_hand(subject, exam), abs=TOLERANCE)


def test_scores_do_not_depend_on_the_batch(subject: Subject):
    one, *others = (score_exams(subject, EXAMS, PROMPT, size)[0] for size in (1, 7, 64))
    for other in others:
        for a, b in zip(one, other, strict=True):
            assert a.log_likelihoods == pytest.approx(b.log_likelihoods, abs=1e-5)
            assert (a.choice, a.choice_unnormalised) == (b.choice, b.choice_unnormalised)


def test_the_choice_is_normalised_by_bytes(subject: Subject):
    for exam, score in zip(EXAMS, score_exams(subject, EXAMS, PROMPT, 4)[0], strict=True):
        rates = [
            value / len(o.encode()) for value, o in zip(score.log_likelihoods, exam.options, strict=True)
        ]
        assert score.choice == rates.index(max(rates))
        assert score.choice_unnormalised == score.log_likelihoods.index(max(score.log_likelihoods))
    assert any(
        score.choice != score.choice_unnormalised for score in score_exams(subject, EXAMS, PROMPT, 4)[0]
    )


def test_a_model_that_ignores_the_mask_is_run_option_by_option(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
):
    forward = subject.model.forward

    def blind(input_ids, use_cache, position_ids=None, attention_mask=None, logits_to_keep=0):
        return forward(input_ids=input_ids, use_cache=use_cache, logits_to_keep=logits_to_keep)

    monkeypatch.setattr(subject.model, "forward", blind)
    questions = encode(subject, [asked(exam, PROMPT) for exam in EXAMS])
    assert not tree_holds(subject, questions, score_tree(subject, questions, 5))
    scores, how = score_exams(subject, EXAMS, PROMPT, 4)
    assert how == "question with each option"
    monkeypatch.undo()
    for exam, score in zip(EXAMS, scores, strict=True):
        assert score.log_likelihoods == pytest.approx(by_hand(subject, exam), abs=TOLERANCE)


def test_a_window_that_the_tree_would_not_see_is_noticed(subject: Subject):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, sliding_window=8, initializer_range=0.5,
    )  # fmt: skip
    windowed = dataclasses.replace(subject, model=MistralForCausalLM(config).eval())
    scores, how = score_exams(windowed, EXAMS, PROMPT, 4)
    assert how == PLAIN
    for exam, score in zip(EXAMS, scores, strict=True):
        assert score.log_likelihoods == pytest.approx(by_hand(windowed, exam), abs=1e-3)


def test_a_boundary_that_merges_with_the_option_shares_less(subject: Subject):
    merged = dataclasses.replace(subject, prefix=())
    pieces = {"Q": [1, 2], "Q ab": [1, 9], "Q cd": [1, 2, 4]}
    object.__setattr__(merged, "tokenizer", lambda texts, **_: {"input_ids": [pieces[t] for t in texts]})
    (encoded,) = encode(merged, [Asked("k", "Q", ("ab", "cd"))])
    assert (encoded.start, encoded.shared) == (1, 1)


def test_a_long_question_loses_its_first_tokens_for_all_options(subject: Subject):
    exam = Exam("k", "the value of an object " * 100, ("the key", "a name of the key"), 0)
    (encoded,) = encode(subject, [asked(exam, PROMPT)])
    assert max(map(len, encoded.sequences)) == subject.window
    assert all(sequence[0] == subject.prefix[0] for sequence in encoded.sequences)
    assert len({sequence[: encoded.shared] for sequence in encoded.sequences}) == 1
    tail = subject.encode(PROMPT.replace("{question}", exam.question))[-20:]
    assert list(encoded.sequences[0][encoded.start - 20 : encoded.start]) == tail


def test_an_option_that_does_not_fit_is_named(subject: Subject):
    exam = Exam("long", "What?", ("the key " * 300, "it"), 0)
    with pytest.raises(DataInvalid, match=r"'long'.*256 tokens"):
        encode(subject, [asked(exam, PROMPT)])
