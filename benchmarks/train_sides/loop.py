"""The loop: beside plain torch, its start, its resume, the stall of a save, and how it scales."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.train_sides.common import (
    OPTIONS,
    VOCABULARY,
    Answer,
    Timed,
    losses,
    model,
    ours,
    peak_mib,
)
from tasks.recipe.failures import Preempted
from tasks.training.loop import TrainOptions, train
from tasks.training.objectives.causal_lm import CAUSAL_LM
from tasks.training.order import indices_at
from tasks.training.packed import PackedSamples, write_packed


def rows_of(count: int, length: int) -> PackedSamples:
    """So many full rows of random tokens."""
    directory = Path(tempfile.mkdtemp(prefix="bench-tokens-"))
    draw = np.random.default_rng(0)
    rows = [[draw.integers(10, VOCABULARY, length)] for _ in range(count)]
    facts = {"tokenizer": "", "replay_share": 0.0}
    write_packed(directory, rows, sequence_length=length, vocab_size=VOCABULARY, pad=0, facts=facts)
    return PackedSamples(directory)


def packed(size: str) -> PackedSamples:
    """Full rows of 256 tokens, 64 of them (16 quickly)."""
    return rows_of({"full": 64, "quick": 16}[size], 256)


def loop_ours(size: str, threads: int) -> Answer:
    """The loop on full rows."""
    context, _, _ = ours(packed(size), threads, batch_size=4, clip=1.0)
    return {"seconds": context.ends[-1] - context.ends[0], "losses": losses(context)}


def loop_bare(size: str, threads: int) -> Answer:
    """Forward, backward and optimiser step, and nothing else, on the same batches."""
    torch.set_num_threads(threads)
    samples, trained = packed(size), model()
    trained.train()
    groups = [
        {"params": [p for p in trained.parameters() if p.ndim >= 2]},
        {"params": [p for p in trained.parameters() if p.ndim < 2]},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    ends, found = [], []
    for start in range(0, len(samples), 4):
        batch = samples.batch(indices_at(0, len(samples), start, 4).tolist())
        total, _ = CAUSAL_LM.loss(trained, batch)
        loss = total / CAUSAL_LM.weight(batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        found.append(float(loss.detach()))
        ends.append(time.perf_counter())
    return {"seconds": ends[-1] - ends[0], "losses": found}


def start(size: str, threads: int) -> Answer:
    """Seconds from the call of `train` to the end of the first optimiser step."""
    begin = time.perf_counter()
    context, _, _ = ours(packed(size), threads, batch_size=4, max_steps=2)
    return {"seconds_to_first_step": context.ends[0] - begin}


def resume(size: str, threads: int) -> Answer:
    """Seconds from the call of `train` on a stopped training to the end of the first new step."""
    samples, directory = packed(size), Path(tempfile.mkdtemp(prefix="bench-"))
    options = TrainOptions(**{**OPTIONS, "threads": threads, "batch_size": 4})
    for stop_after in (2, None):
        context = Timed(directory)
        context.stop_after = stop_after
        begin = time.perf_counter()
        try:
            train(
                context, model(), samples, CAUSAL_LM, options, log_path=directory / "log" / "training.jsonl"
            )
        except Preempted:
            continue
    return {"seconds_to_first_new_step": context.ends[0] - begin}


def checkpoint(size: str, threads: int) -> Answer:
    """Seconds that a save adds to a step: every step saved, against none."""
    samples = packed(size)
    seconds = []
    for every in (10_000, 1):
        context, _, _ = ours(samples, threads, batch_size=4, checkpoint_every=every)
        # The last step's save comes after its end; the rest lie between the steps.
        seconds.append((context.ends[-1] - context.ends[0]) / (len(context.ends) - 1))
    return {"stall_seconds": seconds[1] - seconds[0], "step_seconds": seconds[0]}


SCALES: dict[str, dict[str, int]] = {
    "base": {"batch": 4, "length": 128, "layers": 6},
    "tokens_x2": {"batch": 8, "length": 128, "layers": 6},
    "length_x2": {"batch": 4, "length": 256, "layers": 6},
    "layers_x2": {"batch": 4, "length": 128, "layers": 12},
}


def scaling(size: str, threads: int, scale: str) -> Answer:
    """Seconds a step, and the process's peak memory, at one of the scales."""
    given = SCALES[scale]
    samples = rows_of(given["batch"] * {"full": 6, "quick": 3}[size], given["length"])
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    context = Timed(directory)
    options = TrainOptions(**{**OPTIONS, "threads": threads, "batch_size": given["batch"]})
    log = directory / "log" / "training.jsonl"
    train(context, model(layers=given["layers"]), samples, CAUSAL_LM, options, log_path=log)
    return {
        "step_seconds": (context.ends[-1] - context.ends[0]) / (len(context.ends) - 1),
        "peak_mib": peak_mib(),
    }
