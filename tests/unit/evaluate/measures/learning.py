"""Tiny models that learn texts by heart, for measures that must tell them apart."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch

from tasks.evaluate.scoring import Subject


def learn(subject: Subject, texts: Sequence[str], steps: int, batch: int = 16, lr: float = 5e-3) -> Subject:
    """A copy of a model that has read the texts, each behind the prefix, `steps` batches in a fixed order."""
    model = copy.deepcopy(subject.model).train()
    rows = [[*subject.prefix, *ids] for ids in subject.encode_all(texts)]
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    with torch.enable_grad():
        for _ in range(steps):
            chosen = [rows[place] for place in torch.randint(len(rows), (batch,), generator=draw).tolist()]
            longest = max(map(len, chosen))
            tokens_BT = torch.zeros(batch, longest, dtype=torch.long)
            labels_BT = torch.full((batch, longest), -100)
            for place, row in enumerate(chosen):
                tokens_BT[place, : len(row)] = labels_BT[place, : len(row)] = torch.tensor(row)
            model(input_ids=tokens_BT, labels=labels_BT, use_cache=False).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    return dataclasses.replace(subject, model=model.eval())
