"""What the sides share: models with random weights, a tokenizer, the texts of this Python's documentation."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.evaluate.rows import Document, Exam
from tasks.evaluate.scoring import Subject, honours_picks
from tasks.pretrain.tokenizer import train_tokenizer
from tasks.sources import pydocs

Answer = dict[str, Any]
T = TypeVar("T")

WINDOW = 1024
TOKENS = 4096
"""The tokenizer's; the models have the output layer of a vocabulary of 32,000."""
SHAPES = {"12m": (256, 6, 4), "125m": (768, 15, 12)}
"""Name -> width, layers, heads: 12.6 and 126 million parameters."""


def model(shape: str) -> LlamaForCausalLM:
    """A Llama with random weights from one seed."""
    hidden, layers, heads = SHAPES[shape]
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32_000,
            hidden_size=hidden,
            intermediate_size=hidden * 5 // 2,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).eval()


@cache
def tokenizer() -> Any:
    """Byte-level BPE of the standard library's docstrings."""
    texts = [row["text"] for row in itertools.islice(pydocs.library_docstrings("train"), 2000)]
    return train_tokenizer(texts, vocab_size=TOKENS, max_length=WINDOW)


def subject(shape: str) -> Subject:
    """The model as the evaluation sees it."""
    built, words = model(shape), tokenizer()
    prefix = (words.bos_token_id,)
    return Subject("random", "random", built, words, WINDOW, prefix, "bos", honours_picks(built))


def exams(count: int) -> list[Exam]:
    """The demo's exam on the language reference."""
    rows = itertools.islice(pydocs.exam_on_the_language_reference("heldout"), count)
    return [Exam(row["key"], row["question"], tuple(row["options"]), row["answer"]) for row in rows]


def documents(count: int) -> list[Document]:
    """Docstrings that fit into one window."""
    rows = (Document(row["key"], row["text"]) for row in pydocs.library_docstrings("heldout"))
    short = (row for row in rows if len(tokenizer()(row.text)["input_ids"]) < WINDOW)
    return list(itertools.islice(short, count))


def timed(run: Callable[[], T], warm: Callable[[], object]) -> tuple[T, float]:
    """What `run` gives, and its seconds; `warm` runs before."""
    warm()
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began
