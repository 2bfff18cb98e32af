"""Yadav et al. 2023 in shape: trimming and electing signs removes the interference that averaging keeps.

Each of three task vectors has its own few influential parameters; everywhere else it has small redundant
values of random sign. The ideal merge has every influential value at full size and nothing else.
"""

from __future__ import annotations

import torch

from tasks.merge.methods.linear import linear
from tasks.merge.methods.slerp import slerp
from tasks.merge.methods.ties import ties


def task_vectors(noise: float) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors, ideal = [], torch.zeros(3000)
    for task in range(3):
        vector = noise * torch.randn(3000, generator=generator)
        influential = slice(300 * task, 300 * (task + 1))
        values = torch.randn(300, generator=generator).sign() * (1 + torch.rand(300, generator=generator))
        vector[influential] = values
        ideal[influential] = values
        vectors.append(vector)
    return vectors, ideal


def test_ties_comes_nearer_to_the_ideal_than_any_scaled_average():
    vectors, ideal = task_vectors(noise=0.3)
    merged = ties((v.clone() for v in vectors), torch.zeros(3000), [1.0, 1.0, 1.0], 0.1, 1.0)
    average = linear((v.clone() for v in vectors), [1 / 3] * 3)
    best_average = min(float((scale * average - ideal).norm()) for scale in torch.linspace(0.5, 4, 36))
    assert float((merged - ideal).norm()) < 0.5 * best_average


def test_without_redundant_values_there_is_little_to_gain():
    vectors, ideal = task_vectors(noise=0.0)
    merged = ties((v.clone() for v in vectors), torch.zeros(3000), [1.0, 1.0, 1.0], 0.1, 1.0)
    assert torch.allclose(merged, ideal)
    assert torch.allclose(3 * linear((v.clone() for v in vectors), [1 / 3] * 3), ideal)


def test_averaging_shrinks_unrelated_tensors_and_slerp_does_not():
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(1000, generator=generator), torch.randn(1000, generator=generator)
    norm = float(first.norm() + second.norm()) / 2
    assert float(((first + second) / 2).norm()) < 0.8 * norm
    assert abs(float(slerp(first.clone(), second.clone(), 0.5).norm()) - norm) < 0.05 * norm
