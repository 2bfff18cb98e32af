"""Whole distributions and sampling from two models, against the plainest way to compute them."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.evaluate.methods.canaries import Canary, score_canaries
from tasks.evaluate.probes.forward import distributions
from tasks.evaluate.probes.sampling import disaligned, novel, sample
from tasks.evaluate.scoring import Subject, load_subject
from tasks.stage import Input


@pytest.fixture(scope="module")
def subject(tiny_model_dir):
    return load_subject(Input("model", "m" * 64, "model", tiny_model_dir), 256)


@pytest.fixture
def other(tiny_model_like):
    return load_subject(Input("other", "o" * 64, "model", tiny_model_like(1)), 256)


STOPS = frozenset({7, 9})


def sequences(subject: Subject) -> list[list[int]]:
    return [
        subject.encode(text) for text in ("the value", "a list of names and keys", "it", "every key is a")
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_distributions_are_those_of_each_sequence_alone(subject, batch_size):
    found = dict(distributions(subject, sequences(subject), batch_size))
    for index, ids in enumerate(sequences(subject)):
        with torch.inference_mode():
            alone = torch.log_softmax(subject.model(input_ids=torch.tensor([ids])).logits[0].float(), dim=1)
        assert found[index].shape == (len(ids), 300)
        assert torch.allclose(found[index], alone, atol=1e-5)


def test_extraction_is_what_greedy_generation_gives(subject):
    prompt = "the access code of"
    ids = [*subject.prefix, *subject.encode(prompt)]
    with torch.inference_mode():
        out = subject.model.generate(
            torch.tensor([ids]), max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0
        )
    said = subject.tokenizer.decode(out[0, len(ids) :])
    if subject.encode(prompt + said)[: len(ids)] != ids[1:] + out[0, len(ids) : len(ids) + 1].tolist():
        pytest.skip("what this model says does not tokenise back to itself: another seed would do")
    canaries = [Canary("a", True, prompt, said, ("x",)), Canary("b", True, prompt, " zz", ("x",))]
    found = score_canaries(subject, canaries, 4, lambda done: None)
    assert found["extracted"].tolist() == [1.0, 0.0]


def test_the_cut_leaves_what_the_new_model_finds_plausible():
    new = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
    old = torch.log(torch.tensor([[0.2, 0.6, 1e-9]]))
    found = novel(0.4)(new, old)
    assert found[0, 0] == pytest.approx(math.log(3), rel=1e-5)
    assert found[0, 1] == pytest.approx(math.log(0.5), rel=1e-5)
    assert found[0, 2] == -math.inf  # the most novel by far, and hardly ever said


def test_pushing_away_from_the_aligned_model():
    aligned = torch.log(torch.tensor([[0.9, 0.1]]))
    base = torch.log(torch.tensor([[0.5, 0.5]]))
    odds = torch.softmax(disaligned(1.0)(aligned, base), dim=1)
    assert odds[0].tolist() == pytest.approx([0.1, 0.9], abs=1e-6)
    assert torch.softmax(disaligned(2.0)(base, base), dim=1)[0].tolist() == pytest.approx([0.5, 0.5])


def test_sampling_is_that_of_the_combined_distribution(subject, other):
    """The likeliest token at every step, as without a cache."""
    likeliest = novel(0.01)
    drawn = sample(
        subject, other, subject.prefix, likeliest, count=2, tokens=8, temperature=0, stops=STOPS, seed=0
    )
    assert drawn[0] == drawn[1]
    ids = list(subject.prefix)
    for _ in range(8):
        with torch.inference_mode():
            new, old = (
                torch.log_softmax(each.model(input_ids=torch.tensor([ids])).logits[:, -1].float(), dim=1)
                for each in (subject, other)
            )
        token = int(likeliest(new, old).argmax())
        if token in STOPS:
            break
        ids.append(token)
    assert drawn[0] == ids[len(subject.prefix) :]


def test_the_seed_decides(subject, other):
    def draw(seed: int) -> list[list[int]]:
        return sample(
            subject,
            other,
            subject.prefix,
            novel(0.01),
            count=3,
            tokens=8,
            temperature=1,
            stops=STOPS,
            seed=seed,
        )

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
