"""Ping et al. 2024 (Delta-CoMe) in shape: at one budget, bits by singular value beat low rank and low bits.

The differences are those of a matrix trained for a while, whose singular values have a long tail: that is
what the paper sees in fine-tuned models, and why a cut at a rank loses much and one bit for everything does
too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.artefacts.factors import product
from tasks.merge.methods.delta_come import DeltaComeOptions, compress, plan_pairs

ROWS, COLUMNS = 256, 384
BUDGET = 1.0


def tuned_difference(seed: int) -> Any:
    draw = np.random.default_rng(seed)
    u = np.linalg.qr(draw.normal(size=(ROWS, ROWS)))[0]
    v = np.linalg.qr(draw.normal(size=(COLUMNS, COLUMNS)))[0]
    return (u * (1.0 / np.arange(1, ROWS + 1) ** 0.7)) @ v[:, :ROWS].T


def error(exact: Any, kept: Any) -> float:
    return float(np.linalg.norm(exact - kept) / np.linalg.norm(exact))


def low_rank(exact: Any) -> Any:
    """As many pairs of singular vectors in 16 bits as the budget pays for."""
    rank = int(BUDGET * ROWS * COLUMNS / (16 * (ROWS + COLUMNS)))
    u, lengths, vt = np.linalg.svd(exact, full_matrices=False)
    return (u[:, :rank] * lengths[:rank]) @ vt[:rank]


def low_bit(exact: Any) -> Any:
    """A sign for each weight and one scale (BitDelta): 1 bit a weight."""
    return np.sign(exact) * np.abs(exact).mean()


def one_precision(exact: Any, bits: int) -> Any:
    count = int(BUDGET * ROWS * COLUMNS / (bits * (ROWS + COLUMNS) + 32))
    return product(compress(exact, [bits] * min(count, ROWS)))


@pytest.mark.parametrize("seed", range(3))
def test_mixed_precision_beats_low_rank_and_low_bits_at_one_budget(seed: int) -> None:
    exact = tuned_difference(seed)
    bits = plan_pairs((ROWS, COLUMNS), DeltaComeOptions(bits=BUDGET))
    mixed = error(exact, product(compress(exact, bits)))
    assert mixed < 0.9 * error(exact, low_rank(exact))
    assert mixed < 0.9 * error(exact, low_bit(exact))
    assert mixed < error(exact, one_precision(exact, 8))
    assert mixed < error(exact, one_precision(exact, 3))
