"""SFT's loss over 20 steps is that of TRL's SFTTrainer, packed, on the same batches in the same order."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from tasks.training.chats import ChatSamples, render_chats
from tasks.training.log import read_rows
from tasks.training.loop import TrainOptions, train
from tasks.training.models import load_model
from tasks.training.objectives.causal_lm import causal_lm
from tasks.training.order import permutation
from tasks.training.render import Rendered
from tests.conftest import WORDS

LENGTH, BATCH, STEPS, LR = 96, 2, 20, 2e-3


def conversations(tokenizer: PreTrainedTokenizerBase) -> list[Rendered]:
    """Conversations of very different lengths, so that samples hold one to many."""
    draw = random.Random(0)

    def words(most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))

    chats = [
        {
            "key": str(number),
            "messages": [
                {"role": role, "content": words(most)}
                for role, most in (("user", 6), ("assistant", draw.choice([2, 5, 20])))
            ],
        }
        for number in range(160)
    ]
    found = render_chats(chats, tokenizer, max_length=LENGTH, too_long="drop", turns="all")
    return [row for _, row in found.rows]


def trl_training(
    model_dir: Path, rows: list[Rendered], directory: Path, **more: Any
) -> tuple[list[list[int]], list[float], torch.Tensor]:
    """TRL's packed samples, its loss at every step and its weights."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    losses: list[float] = []

    class Spy(SFTTrainer):
        def compute_loss(self, *given: Any, **named: Any) -> Any:
            found = super().compute_loss(*given, **named)  # type: ignore[no-untyped-call]
            losses.append(float((found[0] if isinstance(found, tuple) else found).detach()))
            return found

    model, tokenizer = load_model(model_dir)
    trainer = Spy(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [row.input_ids for row in rows],
                "labels": [
                    [token if learnt else -100 for token, learnt in zip(row.input_ids, row.mask, strict=True)]
                    for row in rows
                ],
            }
        ),
        args=SFTConfig(
            output_dir=str(directory),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            packing=True,
            packing_strategy="bfd",
            max_length=LENGTH,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=LR,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            adam_beta1=0.9,
            adam_beta2=0.95,
            adam_epsilon=1e-8,
            max_grad_norm=1.0,
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            **more,
        ),
    )
    packed = [row["input_ids"] for row in trainer.train_dataset]
    trainer.train()
    weights = torch.cat([each.detach().flatten() for each in trainer.model.parameters()])
    return packed, losses, weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({}, {"loss_chunk": 16}),
        ({"loss_type": "dft"}, {"token_loss": "dft"}),
        ({"label_smoothing_factor": 0.1}, {"label_smoothing": 0.1}),
    ],
    ids=["plain", "chunked", "dft", "label smoothing"],
)
def test_the_trajectory_is_trls(theirs, ours, make_context, tiny_model_dir, tmp_path):
    model, tokenizer = load_model(tiny_model_dir)
    rows = conversations(tokenizer)
    packed, expected, their_weights = trl_training(tiny_model_dir, rows, tmp_path / "trl", **theirs)
    assert len(packed) >= BATCH * STEPS
    assert max(len(row.input_ids) for row in rows) <= LENGTH

    # The same samples, put where our order meets them in TRL's sequence.
    samples = ChatSamples(rows, 0, capacity=LENGTH)
    by_tokens = {tuple(row.input_ids): number for number, row in enumerate(rows)}
    order = permutation(0, 0, len(packed))
    bins: list[list[int]] = [[] for _ in packed]
    for place, tokens in zip(order, packed, strict=True):
        bins[place] = split(tokens, by_tokens)
    assert len(samples.bins) == len(packed)  # both pack by best fit, in as many samples
    samples.bins = bins

    context = make_context()
    train(
        context,
        model,
        samples,
        causal_lm(**ours),
        TrainOptions(
            lr=LR,
            schedule="constant",
            warmup=0.0,
            weight_decay=0.0,
            batch_size=BATCH,
            max_steps=STEPS,
            threads=torch.get_num_threads(),
            checkpoint_every=1000,
            loss_chunk=ours.get("loss_chunk", 0),
        ),
        log_path=context.output("log") / "training.jsonl",
    )
    got = [row["loss"] for row in read_rows(context.output("log") / "training.jsonl")]
    assert len(got) == len(expected) == STEPS
    # It trains, so that a wrong step would show in the next ones. (DFT's loss rises with the probability.)
    assert abs(expected[-1] - expected[0]) > 0.1 * expected[0]
    assert np.abs(np.array(got) - np.array(expected)).max() < 1e-4
    our_weights = torch.cat([each.detach().flatten() for each in model.parameters()])
    assert float((our_weights - their_weights).abs().max()) < 1e-3


def split(tokens: list[int], by_tokens: dict[tuple[int, ...], int]) -> list[int]:
    """The conversations that a packed sample is made of; each begins with the token that begins them all."""
    starts = [place for place, token in enumerate(tokens) if token == tokens[0]]
    ends = [*starts[1:], len(tokens)]
    return [by_tokens[tuple(tokens[start:end])] for start, end in zip(starts, ends, strict=True)]
