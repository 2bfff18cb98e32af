"""Supervised fine-tuning: ours packed; TRL's packed and padded."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from benchmarks.train_sides.common import (
    LENGTH,
    TRL_ON_CPU,
    Answer,
    clock,
    documents,
    model,
    ours,
    tokenizer,
    tokens_per_second,
)
from tasks.training.chats import ChatSamples
from tasks.training.objectives.causal_lm import CAUSAL_LM
from tasks.training.render import Rendered


@torch.no_grad()
def probe() -> float:
    """The start model's mean loss on the first document: both sides must begin from the same weights."""
    ids_BT = torch.tensor(documents("quick")[:1])
    labels_BT = ids_BT.clone()
    positions_BT = torch.arange(ids_BT.shape[1])[None]
    batch = {"input_ids_BT": ids_BT, "position_ids_BT": positions_BT, "labels_BT": labels_BT}
    total, _ = CAUSAL_LM.loss(model().eval(), batch)
    return float(total) / CAUSAL_LM.weight(batch)


def sft_ours(size: str, threads: int) -> Answer:
    """Supervised fine-tuning on packed samples."""
    rows = [Rendered(ids, [True] * len(ids), 1, 1) for ids in documents(size)]
    samples = ChatSamples(rows, 0, capacity=LENGTH)
    context, done, _ = ours(samples, threads, batch_size=2)
    supervised = done.tokens - len(rows)  # nothing predicts a document's first token
    return {"tokens_per_second": tokens_per_second(context.ends, supervised), "probe": probe()}


def sft_trl(size: str, threads: int, packing: bool) -> Answer:
    """TRL's SFTTrainer on the same documents."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    ends: list[float] = []
    rows = documents(size)
    trainer = SFTTrainer(
        model=model(),
        processing_class=tokenizer(),
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        callbacks=[clock(ends)],
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(prefix="bench-trl-"),
            gradient_checkpointing=False,
            packing=packing,
            packing_strategy="bfd",
            per_device_train_batch_size=2 if packing else 8,
            num_train_epochs=1,
            **TRL_ON_CPU,
        ),
    )
    begin = probe_of(trainer.model)
    trainer.train()
    supervised = sum(len(row) for row in rows) - len(rows)
    return {"tokens_per_second": tokens_per_second(ends, supervised), "probe": begin}


@torch.no_grad()
def probe_of(given: Any) -> float:
    """The mean loss of the first document as transformers itself computes it."""
    ids_BT = torch.tensor(documents("quick")[:1])
    return float(given.eval()(input_ids=ids_BT, labels=ids_BT).loss)
