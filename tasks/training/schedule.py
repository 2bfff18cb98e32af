"""Learning rate schedules: pure functions of the share of the training that is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tasks.training.options import TrainOptions


def cosine(progress: float, options: TrainOptions) -> float:
    """From 1 down to `min_lr` along half a cosine (Loshchilov and Hutter, arXiv 1608.03983)."""
    return options.min_lr + (1 - options.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def wsd(progress: float, options: TrainOptions) -> float:
    """1, then at the end a linear fall to `min_lr` (warmup-stable-decay: Hu et al., arXiv 2404.06395)."""
    left = (1 - progress) / options.decay
    return options.min_lr + (1 - options.min_lr) * min(left, 1.0)


def constant(progress: float, options: TrainOptions) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: Mapping[str, Callable[[float, TrainOptions], float]] = {
    "cosine": cosine,
    "wsd": wsd,
    "constant": constant,
}
"""Name -> factor from the share of the training after the warm-up. wsd's decay is a share of that too."""


def learning_rate(progress: float, options: TrainOptions) -> float:
    """The learning rate when `progress` (0 to 1) of the training's samples are seen.

    The rise from 0 over the `warmup` share is also what re-warms a model that was trained before (Ibrahim et
    al., arXiv 2403.08763).
    """
    if progress < options.warmup:
        return options.lr * progress / options.warmup
    rest = 1 - options.warmup
    after = (progress - options.warmup) / rest if rest > 0 else 1.0
    return options.lr * SCHEDULES[options.schedule](after, options)
