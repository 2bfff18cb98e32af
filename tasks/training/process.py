"""Makes the process one that DeepSpeed can train in, and that computes the same bits every time."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Process:
    """This process among those of the training.

    Attributes:
        rank: Its number, 0 to world_size - 1.
        world_size: How many there are.
        device: Where it computes.
        threads: CPU threads of its tensor operations.
    """

    rank: int
    world_size: int
    device: torch.device
    threads: int


def start_process(seed: int, threads: int) -> Process:
    """Joins the group of processes (one, unless a launcher says otherwise) and makes it deterministic.

    Args:
        seed: Seeds python, numpy and torch, different on every rank.
        threads: CPU threads; sums depend on how many there are.
    """
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ["DS_ACCELERATOR"] = "cpu"
    _launcher_environment()
    _deterministic(threads)
    _join("nccl" if cuda else "gloo")

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return Process(rank, world_size, device, threads)


def _launcher_environment() -> None:
    """What torchrun would have set; without it DeepSpeed looks for MPI."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return
    os.environ.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})


def _deterministic(threads: int) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN would only cost time: nothing here reads memory it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def _join(backend: str) -> None:
    import deepspeed

    for handler in deepspeed.utils.logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stderr)
    deepspeed.utils.logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # calls by DeepSpeed
    if backend == "gloo":
        # On the CPU DeepSpeed first probes for every kernel it could compile, then compiles a shared-memory
        # all-reduce: a minute and a compiler, to save microseconds beside gloo. A table that says "none"
        # spares a laptop both.
        vars(deepspeed.ops).setdefault("__compatible_ops__", defaultdict(bool))
    if os.environ["WORLD_SIZE"] == "1" and not torch.distributed.is_initialized():
        # Alone, there is nobody to meet: a port for that could be taken by another training at this moment.
        torch.distributed.init_process_group(
            backend,
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
