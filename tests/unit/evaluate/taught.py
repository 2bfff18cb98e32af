"""Tiny models that say what a test wants: taught by heart, or made to copy."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy
import torch

from tasks.evaluate.measure import Array, Columns, Measure
from tasks.evaluate.scoring import Subject

Lesson = tuple[tuple[int, ...], str]
"""The tokens of a prompt, and what to say behind it."""


def teach(subject: Subject, lessons: Sequence[Lesson], steps: int = 120, end: bool = True) -> Subject:
    """A copy of a model that has learned the lessons by heart, with the end of text behind each."""
    model = copy.deepcopy(subject.model)
    torch.manual_seed(0)
    close = [subject.tokenizer.eos_token_id] if end else []
    rows = [(list(prompt), [*subject.encode(said), *close]) for prompt, said in lessons]
    longest = max(len(prompt) + len(said) for prompt, said in rows)
    tokens_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    labels_BT = torch.full((len(rows), longest), -100)
    for row, (prompt, said) in enumerate(rows):
        whole = torch.tensor([*prompt, *said])
        tokens_BT[row, : len(whole)] = whole
        labels_BT[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model.train()
    with torch.enable_grad():
        for _ in range(steps):
            loss = model(input_ids=tokens_BT, labels=labels_BT, use_cache=False).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            if float(loss.detach()) < 0.02:
                break
    return dataclasses.replace(subject, model=model.eval())


def figure(measure: Measure, name: str, *columns: Columns, weights: Array | None = None) -> float:
    """A figure of a model's columns, or a comparison of two models', on all items."""
    named: dict[str, Any] = {each.name: each.of for each in measure.figures}
    named |= {each.name: each.of for each in measure.comparisons}
    items = len(next(iter(columns[0].values())))
    return float(named[name](*columns, numpy.ones((1, items)) if weights is None else weights)[0])


class Copier(torch.nn.Module):
    """Predicts the token that followed the longest earlier match of the last tokens, within a window.

    What induction heads do (Olsson et al. 2022), without learning it; it is blind beyond its window.
    """

    def __init__(self, vocabulary: int, window: int) -> None:
        super().__init__()
        self.vocabulary, self.window = vocabulary, window
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=vocabulary))

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        tokens_BT = input_ids
        rows, length = tokens_BT.shape
        logits_BTV = torch.zeros(rows, length, self.vocabulary)
        match_BT = torch.zeros(rows, length)  # length of the match that ends at each earlier position
        places_T = torch.arange(length)
        for now in range(1, length):
            before_BT = torch.nn.functional.pad(match_BT, (1, 0))[:, :length]
            match_BT = (tokens_BT == tokens_BT[:, now : now + 1]) * (before_BT + 1)
            seen_BT = match_BT * ((places_T < now) & (places_T >= now - self.window))
            best_B1, at_B1 = seen_BT.max(dim=1, keepdim=True)
            following_B1 = tokens_BT.gather(1, (at_B1 + 1).clamp(max=length - 1))
            logits_BTV[:, now].scatter_(1, following_B1, 3.0 * best_B1)
        return SimpleNamespace(logits=logits_BTV)
