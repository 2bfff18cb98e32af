"""Windows cover every token once, and the figure is the plain forward's where one window suffices."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.bits_per_byte import score_documents, windows
from tasks.evaluate.rows import Document
from tasks.evaluate.scoring import Subject, load_subject
from tasks.stage import Input

TEXTS = [
    "The value of an object.",
    "Every key of the mapping is a string — even this one: “naïve café”. " * 12,
    "a",
    "the function is called with a list of names " * 40,
]
DOCUMENTS = [Document(str(index), text) for index, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def subject(tiny_model_dir: Path) -> Subject:
    return load_subject(Input("m", "d", "model", tiny_model_dir), 1024)


@given(st.integers(0, 300), st.integers(2, 64), st.data())
def test_every_token_is_scored_once_with_its_context(length: int, window: int, data):
    stride = data.draw(st.integers(1, window - 1))
    covered: list[int] = []
    for number, (begin, end, first) in enumerate(windows(length, window, stride)):
        assert 0 <= begin < first < end <= length
        assert end - begin <= window
        if number:
            assert first - begin >= window - stride
        covered += range(first, end)
    assert covered == list(range(1, length))


def test_window_is_the_smaller_of_the_option_and_the_models_limit(tiny_model_dir: Path, subject: Subject):
    assert subject.window == 256
    assert load_subject(Input("m", "d", "model", tiny_model_dir), 64).window == 64


def test_nats_equal_a_plain_forward_pass(subject: Subject):
    for document, score in zip(DOCUMENTS[:1], score_documents(subject, DOCUMENTS[:1], 4, None), strict=True):
        ids = torch.tensor([[subject.tokenizer.bos_token_id, *subject.encode(document.text)]])
        with torch.no_grad():
            loss = subject.model(input_ids=ids, labels=ids).loss
        assert score.nats == pytest.approx(float(loss) * score.tokens, rel=1e-5)
        assert score.tokens == ids.shape[1] - 1
        assert score.bytes == len(document.text.encode())


def test_long_documents_equal_windows_run_by_hand(subject: Subject):
    document = DOCUMENTS[3]
    small = dataclasses.replace(subject, window=48)
    sequence = torch.tensor([*subject.prefix, *subject.encode(document.text)])
    assert len(sequence) > 100
    nats = 0.0
    for position in range(1, len(sequence)):
        # the context each position has under a window of 48 and a stride of 16
        end = 48 if position < 48 else min(48 + 16 * ((position - 48) // 16 + 1), len(sequence))
        begin = max(0, end - 48)
        with torch.no_grad():
            logits_V = subject.model(input_ids=sequence[None, begin:position]).logits[0, -1]
        nats -= float(torch.log_softmax(logits_V.double(), -1)[sequence[position]])
    assert score_documents(small, [document], 5, 16)[0].nats == pytest.approx(nats, rel=1e-5)


def test_scores_do_not_depend_on_the_batch(subject: Subject):
    small = dataclasses.replace(subject, window=64)
    one, *others = (score_documents(small, DOCUMENTS, size, None) for size in (1, 7, 64))
    for other in others:
        for a, b in zip(one, other, strict=True):
            assert a.nats / a.bytes == pytest.approx(b.nats / b.bytes, abs=1e-5)


def test_without_a_prefix_the_first_token_costs_a_uniform_choice(subject: Subject):
    bare = dataclasses.replace(subject, prefix=())
    document = Document("k", "t")
    assert len(subject.encode("t")) == 1
    assert score_documents(bare, [document], 1, None)[0].nats == pytest.approx(math.log(300))


def test_the_prefix_is_never_doubled_by_a_tokenizer_that_adds_its_own(subject: Subject):
    assert subject.prefix == (subject.tokenizer.bos_token_id,)
    assert "beginning of text" in subject.prefix_policy
    assert subject.encode("the value")[0] != subject.tokenizer.bos_token_id


def test_special_words_in_a_document_count_all_their_bytes(subject: Subject):
    document = Document("k", "é" * 10)
    assert score_documents(subject, [document], 1, None)[0].bytes == 20
