"""Trainings killed at random moments, over objectives, adapters, ZeRO stages and numbers of processes.

Every one of them must end with the weights and the log of the one that was left alone, byte for byte. The
moments are drawn from a seed. The suite kills each case once, and leaves out those of SOAK_ONLY; the soak
(`make soak`: PERENNIAL_KILLS of each case, PERENNIAL_KILL_SEED for other moments) has all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.forked import Case, Inputs, finish, launch, make_inputs, result, rows_of

pytestmark = pytest.mark.slow

SOAK = "PERENNIAL_KILLS" in os.environ
KILLS = int(os.environ.get("PERENNIAL_KILLS", "1"))
SEED = int(os.environ.get("PERENNIAL_KILL_SEED", "1"))
LORA = {"trainable": "lora", "lora_rank": 4, "lora_dropout": 0.1}
SHORT = {"max_length": 64}

CASES = (
    Case("continue", "pretrain", "continue"),
    Case("continue-zero1", "pretrain", "continue", {"zero_stage": 1}),
    Case("continue-zero2", "pretrain", "continue", {"zero_stage": 2}),
    Case("continue-zero3", "pretrain", "continue", {"zero_stage": 3}),
    Case("continue-bf16", "pretrain", "continue", {"precision": "bf16"}),
    Case("continue-wsd-rollback", "pretrain", "continue", {"schedule": "wsd", "on_anomaly": "rollback"}),
    Case("continue-chunked", "pretrain", "continue", {"loss_chunk": 16}),
    Case("continue-checkpointing", "pretrain", "continue", {"activation_checkpointing": True}),
    Case("continue-muon", "pretrain", "continue", {"optimiser": "muon"}),
    Case("continue-ema", "pretrain", "continue", {"ema": 0.9}),
    Case("continue-mixout", "pretrain", "continue", {"mixout": 0.5}),
    Case("continue-kl-l2", "pretrain", "continue", {"kl_weight": 0.5, "l2_start": 0.1}),
    Case("continue-half-layers", "pretrain", "continue", {"trainable": "half", "layer_decay": 0.8}),
    Case("continue-unfreeze", "pretrain", "continue", {"unfreeze": 0.5}),
    Case("masked", "pretrain", "masked"),
    Case("fill-in-the-middle", "pretrain", "fill_in_the_middle"),
    *(
        Case(f"continue-{name}", "pretrain", "continue", {"trainable": name})
        for name in ("lora", "rslora", "dora", "pissa", "eva", "loha", "lokr", "vera", "ia3", "layernorm")
    ),
    Case("continue-adalora", "pretrain", "continue", {"trainable": "adalora", "epochs": 3.0}),
    Case("completion", "sft", "completion", SHORT),
    Case("completion-lora", "sft", "completion", SHORT | LORA),
    Case("completion-lora-zero2", "sft", "completion", SHORT | LORA | {"zero_stage": 2}),
    Case("completion-lora-zero3", "sft", "completion", SHORT | LORA | {"zero_stage": 3}),
    Case("completion-prompt", "sft", "completion", SHORT | {"trainable": "prompt"}),
    Case("completion-p-tuning", "sft", "completion", SHORT | {"trainable": "p_tuning", "zero_stage": 3}),
    Case(
        "completion-prompt-bf16",
        "sft",
        "completion",
        SHORT | {"trainable": "prompt", "precision": "bf16", "zero_stage": 1},
    ),
    Case("completion-neftune", "sft", "completion", SHORT | {"neftune": 5.0}),
    Case("completion-dft", "sft", "completion", SHORT | {"token_loss": "dft"}),
    *(
        Case(name, "align", name, SHORT)
        for name in (
            *("dpo", "cdpo", "robust_dpo", "ipo", "hinge", "sigmoid_norm", "rpo"),
            *("apo_zero", "apo_down", "kto", "orpo", "simpo", "cpo"),
        )
    ),
    Case("dpo-lora", "align", "dpo", SHORT | LORA),
    Case("dpo-zero2", "align", "dpo", SHORT | {"zero_stage": 2}),
    Case("distill-logits", "distill", "logits"),
    Case("distill-hidden", "distill", "hidden"),
    Case("two-zero0", "pretrain", "continue", {"accumulation": 1}, 2),
    Case("two-zero2", "pretrain", "continue", {"accumulation": 1, "zero_stage": 2}, 2),
    Case("two-zero3", "pretrain", "continue", {"accumulation": 1, "zero_stage": 3}, 2),
    Case("two-lora", "sft", "completion", SHORT | LORA | {"accumulation": 1, "zero_stage": 1}, 2),
    Case("two-dpo", "align", "dpo", SHORT | {"accumulation": 1, "zero_stage": 2}, 2),
)

SOAK_ONLY = {
    "continue-rslora": "continue-lora",
    "completion-dft": "completion",
    "completion-lora-zero2": "completion-lora",
    "cdpo": "dpo",
    "robust_dpo": "dpo",
    "hinge": "dpo",
    "sigmoid_norm": "dpo",
    "rpo": "dpo",
    "apo_zero": "dpo",
    "apo_down": "dpo",
    "cpo": "simpo",
    "dpo-zero2": "two-dpo",
}
"""Left to the soak -> the case in the suite that keeps the same in its checkpoints. They differ in a formula,
or in the number of processes."""

assert SOAK_ONLY.keys() | set(SOAK_ONLY.values()) <= {case.name for case in CASES}


@pytest.fixture(scope="module")
def inputs(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"), tiny_model_dir)


def kill_at(ranks: list[ForkServerProcess], directory: Path, rows: int, delay: float) -> bool:
    """Kill every process some time after the log has so many rows; whether it had not ended before."""
    log = directory / "outputs" / "log" / "training.jsonl"
    while all(process.is_alive() for process in ranks):
        # A training that starts again replaces its log, so the file may vanish between two looks at it.
        with contextlib.suppress(FileNotFoundError):
            if log.read_bytes().count(b"\n") >= rows:
                break
        time.sleep(0.002)
    time.sleep(delay)
    alive = all(process.is_alive() for process in ranks)
    for process in ranks:
        process.kill()
        process.join()
    return alive


@pytest.mark.parametrize(
    "case", [case for case in CASES if SOAK or case.name not in SOAK_ONLY], ids=lambda case: case.name
)
def test_killed_trainings_end_as_if_left_alone(case: Case, inputs: Inputs, tmp_path: Path) -> None:
    finish(launch(case, tmp_path / "straight", inputs), tmp_path / "straight")
    expected = result(tmp_path / "straight")
    steps = expected[1].count(b"\n")
    draw = random.Random(f"{SEED}/{case.name}")
    moments = sorted(draw.randrange(1, steps) for _ in range(KILLS))
    killed = 0
    for rows in moments:
        # A delay of up to a step and a checkpoint: in the middle of a backward pass, a write, an upload.
        killed += kill_at(
            launch(case, tmp_path / "killed", inputs), tmp_path / "killed", rows, draw.uniform(0, 0.06)
        )
    assert killed == len(moments), "an attempt ended before it was killed: the test would prove less"
    finish(launch(case, tmp_path / "killed", inputs), tmp_path / "killed")
    assert result(tmp_path / "killed") == expected


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_p8_two_to_one_to_two_processes(zero_stage: int, inputs: Inputs, tmp_path: Path) -> None:
    """Through DeepSpeed's universal checkpoint, by itself, with the same samples in every optimiser step.

    Tolerance: 1e-6 of a weight, 1e-5 of a loss, for gradients summed in another order. (Here two processes
    sum two micro-batches as one does, so nothing differs at all; with more processes it would.)
    """
    case = Case("elastic", "pretrain", "continue", {"accumulation": 1, "zero_stage": zero_stage}, 2)
    finish(launch(case, tmp_path / "straight", inputs), tmp_path / "straight")
    directory = tmp_path / "elastic"
    assert kill_at(launch(case, directory, inputs), directory, 4, 0.0)
    assert kill_at(launch(case, directory, inputs, processes=1), directory, 8, 0.0)
    finish(launch(case, directory, inputs), directory)
    notes = json.loads((directory / "notes.json").read_text())
    assert any("2 processes instead of 1" in note for note in notes), notes
    straight, elastic = (rows_of(tmp_path / name) for name in ("straight", "elastic"))
    assert [row["samples"] for row in elastic] == [row["samples"] for row in straight]
    for row, expected in zip(elastic, straight, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    ours, theirs = (load(result(tmp_path / name)[0]) for name in ("elastic", "straight"))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-6)
