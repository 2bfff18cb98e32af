"""Tiny models that learn what to answer, for measures that must tell them apart."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch

from tasks.evaluate.scoring import Subject

Lesson = tuple[str, str]
"""A text, and what comes next behind a space."""


def learn(subject: Subject, lessons: Sequence[Lesson], steps: int, batch: int = 32) -> Subject:
    """A copy of a model that has seen `steps` batches of the lessons, in an order of its own."""
    model = copy.deepcopy(subject.model).train()
    starts = [len(subject.prefix) + len(ids) for ids in subject.encode_all([text for text, _ in lessons])]
    rows = [
        [*subject.prefix, *ids] for ids in subject.encode_all([f"{text} {said}" for text, said in lessons])
    ]
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    with torch.enable_grad():
        for _ in range(steps):
            chosen = torch.randperm(len(rows), generator=draw)[:batch].tolist()
            longest = max(len(rows[index]) for index in chosen)
            tokens_BT = torch.zeros(len(chosen), longest, dtype=torch.long)
            labels_BT = torch.full_like(tokens_BT, -100)
            for place, index in enumerate(chosen):
                row = torch.tensor(rows[index])
                tokens_BT[place, : len(row)] = row
                labels_BT[place, starts[index] : len(row)] = row[starts[index] :]
            model(input_ids=tokens_BT, labels=labels_BT, use_cache=False).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    return dataclasses.replace(subject, model=model.eval())
