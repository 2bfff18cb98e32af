"""Shapes of 1B and 8B parameters on a GPU: ours, and TRL's with the same flags."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.train_sides.common import OPTIONS, TRL, Answer, Timed, losses, tokenizer
from tasks.training.chats import ChatSamples
from tasks.training.hardware import peak_flops, utilisation
from tasks.training.loop import TrainOptions, train
from tasks.training.objectives.causal_lm import causal_lm
from tasks.training.render import Rendered
from tasks.training.trainable.adapter import add_adapter
from tasks.training.trainable.lora import lora

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden": 64, "layers": 2, "heads": 4, "kv": 2, "inner": 128, "words": 1000, "length": 128},
    "1b": {
        "hidden": 2048,
        "layers": 16,
        "heads": 32,
        "kv": 8,
        "inner": 8192,
        "words": 128_256,
        "length": 2048,
    },
    "8b": {
        "hidden": 4096,
        "layers": 32,
        "heads": 32,
        "kv": 8,
        "inner": 14_336,
        "words": 128_256,
        "length": 2048,
    },
}
"""Llama 3's shapes. All of 8B's training state takes more than one card, so both sides train a LoRA of it."""

GPU_STEPS, GPU_BATCH = 12, 4


def shaped(shape: str) -> LlamaForCausalLM:
    """A Llama of a shape in bf16, random weights from one seed."""
    size = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size["words"],
        hidden_size=size["hidden"],
        intermediate_size=size["inner"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv"],
        max_position_embeddings=size["length"],
        tie_word_embeddings=shape != "8b",
        use_cache=False,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return LlamaForCausalLM(config).to(torch.bfloat16)


def full_rows(shape: str) -> list[list[int]]:
    """Documents that fill every row: both sides then do the same arithmetic."""
    size = SHAPES[shape]
    draw = random.Random(0)
    return [
        [draw.randrange(10, size["words"]) for _ in range(size["length"])]
        for _ in range(GPU_STEPS * GPU_BATCH)
    ]


def on_device(ends: Sequence[float], shape: str, parameters: int) -> Answer:
    """Tokens a second, the share of the device's peak that they are worth, and the device's peak memory."""
    size = SHAPES[shape]
    late = ends[GPU_STEPS // 3 :]  # the first steps compile
    speed = GPU_BATCH * size["length"] * (len(late) - 1) / (late[-1] - late[0])
    answer = {"tokens_per_second": speed}
    if torch.cuda.is_available():
        peak = peak_flops(torch.device("cuda", 0))
        assert peak is not None, "add this card's peak to tasks/training/hardware.py"
        answer["model_flop_utilisation"] = utilisation(
            speed, parameters, (size["hidden"], size["layers"], size["words"]), size["length"], peak
        )
        answer["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return answer


def gpu_ours(size: str, threads: int, shape: str) -> Answer:
    """Packed rows in bf16, compiled blocks; flex attention and the chunked head where there is a GPU."""
    gpu = torch.cuda.is_available()
    options = TrainOptions(
        **OPTIONS,
        precision="bf16",
        batch_size=GPU_BATCH,
        compile=True,
        attention="flex" if gpu else "sdpa",
        loss_chunk=1024 if gpu else 64,
        activation_checkpointing=shape == "8b",
        trainable="lora" if shape == "8b" else "full",
    )
    trained: Any = shaped(shape)
    parameters = sum(parameter.numel() for parameter in trained.parameters())
    if shape == "8b":
        trained = add_adapter(trained, lora(options, GPU_STEPS, 0), 0)
    rows = [Rendered(ids, [True] * len(ids), 1, 1) for ids in full_rows(shape)]
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    context = Timed(directory)
    objective = causal_lm(loss_chunk=options.loss_chunk)
    train(context, trained, ChatSamples(rows, 0), objective, options, log_path=directory / "log.jsonl")
    return on_device(context.ends, shape, parameters) | {"losses": losses(context)[:1]}


def gpu_trl(size: str, threads: int, shape: str) -> Answer:
    """TRL's SFTTrainer on the same rows: bf16, compile, its fused head."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    ends: list[float] = []
    found: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *given: Any, **named: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

        def on_log(self, *given: Any, logs: dict[str, float], **named: Any) -> None:
            if "loss" in logs:
                found.append(float(logs["loss"]))

    gpu = torch.cuda.is_available()
    trained, rows = shaped(shape), full_rows(shape)
    parameters = sum(parameter.numel() for parameter in trained.parameters())
    if gpu:
        trained.set_attn_implementation("flex_attention")
    trainer = SFTTrainer(
        model=trained,
        processing_class=tokenizer(),
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        callbacks=[Clock()],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if shape == "8b" else None,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(prefix="bench-trl-"),
            use_cpu=not gpu,
            bf16=True,
            torch_compile=True,
            activation_checkpointing=shape == "8b",
            packing=False,
            max_length=SHAPES[shape]["length"],
            per_device_train_batch_size=GPU_BATCH,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            logging_steps=1,
            **TRL,
        ),
    )
    trainer.train()
    return on_device(ends, shape, parameters) | {"losses": found[:1]}
