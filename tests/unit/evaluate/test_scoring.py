"""Batches within their bounds, and logits of chosen positions only where that gives the same numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM

from tasks.evaluate.scoring import Row, Subject, batches, honours_picks, load_subject, log_probs
from tasks.stage import Input


def row(length: int) -> Row:
    tokens = [(7 * place + length) % 300 for place in range(length)]
    return Row(tokens, range(1, length), range(length - 1))


@given(st.lists(st.integers(2, 50), max_size=40), st.integers(1, 9), st.integers(1, 200), st.integers(1, 200))
def test_batches_hold_every_row_once_within_their_bounds(lengths, batch_size, batch_tokens, logits):
    rows = [row(length) for length in lengths]
    sizes = [len(each.sources) for each in rows]
    found = list(batches(rows, sizes, batch_size, batch_tokens, logits))
    assert sorted(index for batch in found for index in batch) == list(range(len(rows)))
    for batch in found:
        longest = max(lengths[index] for index in batch)
        assert len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * longest <= batch_tokens
        assert len(batch) == 1 or sum(sizes[index] for index in batch) <= logits
    longest_of = [lengths[batch[0]] for batch in found]
    assert longest_of == sorted(longest_of, reverse=True)


@pytest.fixture(scope="module")
def subject(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


def gemma() -> Any:
    """Its logits have a soft cap, behind the output layer."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, final_logit_softcapping=0.5,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


class Centred(torch.nn.Module):
    """Logits less their mean over the positions: not what one position alone would have."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_output_embeddings(self) -> Any:
        return self.model.get_output_embeddings()

    def forward(self, **given: Any) -> Any:
        found = self.model(**given)
        found.logits = found.logits - found.logits.mean(dim=1, keepdim=True)
        return found


@pytest.mark.parametrize(("kind", "picks"), [("llama", True), ("gemma", True), ("centred", False)])
def test_scores_are_those_of_a_plain_forward(subject: Subject, kind: str, picks: bool):
    model = {"llama": subject.model, "gemma": gemma(), "centred": Centred(subject.model)}[kind]
    assert honours_picks(model) is picks
    held = dataclasses.replace(subject, model=model, picks=picks)
    rows = [row(9), dataclasses.replace(row(20), scored=[5, 19], sources=[4, 18])]
    rows = rows if picks else rows[:1]  # padding is part of the mean
    for each, scores in zip(rows, log_probs(held, rows, 2), strict=True):
        with torch.no_grad():
            logits_TV = model(input_ids=torch.tensor([each.tokens])).logits[0].double()
        for score, place, source in zip(scores, each.scored, each.sources, strict=True):
            expected = torch.log_softmax(logits_TV[source], -1)[each.tokens[place]]
            assert score == pytest.approx(float(expected), abs=1e-5)
