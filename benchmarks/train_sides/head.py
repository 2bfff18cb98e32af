"""The output layer's loss: in chunks, and with all logits at once."""

from __future__ import annotations

import time

import torch

from benchmarks.train_sides.common import Answer, peak_mib
from tasks.training.chunked import Head, chunked_loss
from tasks.training.objectives.causal_lm import cross_entropy


def head(size: str, threads: int, chunk: int) -> Answer:
    """A head of 131,072 words on 2,048 positions, forward and backward: memory above what stood before."""
    torch.manual_seed(0)
    hidden_ND = torch.randn(2048, 256, requires_grad=True)
    weight_VD = (torch.randn(131_072, 256) * 0.02).requires_grad_()
    labels_N = torch.randint(0, 131_072, (2048,))
    before = peak_mib()
    begin = time.perf_counter()
    if chunk:
        total, _ = chunked_loss(hidden_ND, Head(weight_VD), cross_entropy(), chunk, labels_N)
    else:
        total = torch.nn.functional.cross_entropy(hidden_ND @ weight_VD.T, labels_N, reduction="sum")
    torch.autograd.backward(total)
    assert weight_VD.grad is not None
    return {
        "peak_mib": peak_mib() - before,
        "seconds": time.perf_counter() - begin,
        "probe": float(total.detach()) / 2048,
        "gradient": float(weight_VD.grad.norm()),
    }
