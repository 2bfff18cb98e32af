"""Each method's arithmetic against a plain dense version written here, and identities it must keep."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from tasks.merge.methods.dare import CHUNK, dare, drop
from tasks.merge.methods.linear import linear
from tasks.merge.methods.slerp import slerp
from tasks.merge.methods.task_arithmetic import task_arithmetic
from tasks.merge.methods.ties import ties, trim


def draw(count: int, shape: tuple[int, ...] = (7, 5), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def copies(tensors: list[torch.Tensor]):
    return (tensor.clone() for tensor in tensors)


def test_linear_is_the_weighted_sum():
    a, b, c = draw(3)
    torch.testing.assert_close(linear(copies([a, b, c]), [0.2, 0.3, 0.5]), 0.2 * a + 0.3 * b + 0.5 * c)


def test_linear_of_identical_models_is_the_model():
    (a,) = draw(1)
    torch.testing.assert_close(linear(copies([a, a]), [0.5, 0.5]), a, rtol=0, atol=0)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_slerp_ends_at_its_parents(weight: float):
    a, b = draw(2)
    torch.testing.assert_close(slerp(a.clone(), b.clone(), weight), [a, b][int(weight)], rtol=1e-6, atol=1e-6)


def test_slerp_between_unit_vectors_stays_on_the_sphere_at_the_right_angle():
    a, b = (tensor / tensor.norm() for tensor in draw(2))
    merged = slerp(a.clone(), b.clone(), 0.3)
    angle = math.acos(float((a * b).sum()))
    assert float(merged.norm()) == pytest.approx(1.0, abs=1e-6)
    assert math.acos(float((a * merged).sum())) == pytest.approx(0.3 * angle, abs=1e-5)


def test_slerp_averages_parallel_and_zero_tensors():
    (a,) = draw(1)
    torch.testing.assert_close(slerp(a.clone(), 2 * a, 0.25), 1.25 * a)
    torch.testing.assert_close(slerp(torch.zeros_like(a), a.clone(), 0.25), 0.25 * a)


def test_task_arithmetic_adds_scaled_differences():
    base, a, b = draw(3)
    expected = base + 0.4 * ((a - base) - 2 * (b - base))
    torch.testing.assert_close(task_arithmetic(copies([a, b]), base, [1.0, -2.0], 0.4), expected)


def test_trim_keeps_the_largest_and_what_ties_with_them():
    delta = torch.tensor([3.0, -5.0, 1.0, 3.0, -0.5, 0.0])
    assert trim(delta.clone(), 0.5).tolist() == [3.0, -5.0, 0.0, 3.0, 0.0, 0.0]
    assert trim(delta.clone(), 1 / 3).tolist() == [3.0, -5.0, 0.0, 3.0, 0.0, 0.0]
    assert trim(delta.clone(), 1e-9).tolist() == [0.0, -5.0, 0.0, 0.0, 0.0, 0.0]


def dense_ties(models: list[torch.Tensor], base: torch.Tensor, density: float, scale: float) -> torch.Tensor:
    """Yadav et al. 2023, algorithm 1, parameter by parameter."""
    deltas = []
    for model in models:
        delta = (model - base).flatten().tolist()
        kept = sorted(range(len(delta)), key=lambda i: -abs(delta[i]))[: round(density * len(delta))]
        deltas.append([value if i in kept else 0.0 for i, value in enumerate(delta)])
    merged = []
    for values in zip(*deltas, strict=True):
        sign = numpy.sign(sum(values))
        agree = [value for value in values if value != 0 and numpy.sign(value) == sign]
        merged.append(sum(agree) / len(agree) if agree else 0.0)
    return base + scale * torch.tensor(merged).reshape(base.shape)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_equals_the_papers_algorithm(density: float):
    base, *models = draw(4)
    merged = ties(copies(models), base, [1.0, 1.0, 1.0], density, 0.7)
    torch.testing.assert_close(merged, dense_ties(models, base, density, 0.7))


def test_ties_of_one_untrimmed_model_is_task_arithmetic():
    base, a = draw(2)
    torch.testing.assert_close(
        ties(copies([a]), base, [1.0], 1.0, 0.6), task_arithmetic(copies([a]), base, [1.0], 0.6)
    )


def test_ties_weights_decide_the_election():
    base, up, down = torch.zeros(1), torch.ones(1), -2 * torch.ones(1)
    assert float(ties(copies([up, down]), base, [1.0, 1.0], 1.0, 1.0)) == -2.0
    assert float(ties(copies([up, down]), base, [3.0, 1.0], 1.0, 1.0)) == 1.0


def test_dare_keeps_everything_at_density_one():
    base, a, b = draw(3)
    torch.testing.assert_close(
        dare("t", copies([a, b]), base, [1.0, 0.5], 1.0, 0.4, 0),
        task_arithmetic(copies([a, b]), base, [1.0, 0.5], 0.4),
    )


def test_dare_drops_and_rescales_without_bias():
    ones = torch.ones(200_000)
    kept = drop(ones.clone(), 0.3, 0, "t", 0)
    assert set(kept.tolist()) == {0.0, float(torch.tensor(1.0) / 0.3)}
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.02)


def test_dare_draws_depend_on_seed_name_and_place_only():
    ones = torch.ones(1000)
    first = drop(ones.clone(), 0.5, 1, "a", 0)
    assert torch.equal(first, drop(ones.clone(), 0.5, 1, "a", 0))
    for other in [(2, "a", 0), (1, "b", 0), (1, "a", 1)]:
        assert not torch.equal(first, drop(ones.clone(), 0.5, *other))


def test_dare_draws_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch):
    ones = torch.ones(1000)
    whole = drop(ones.clone(), 0.5, 1, "a", 0)
    assert CHUNK > 1000
    monkeypatch.setattr("tasks.merge.methods.dare.CHUNK", 64)
    assert torch.equal(whole, drop(ones.clone(), 0.5, 1, "a", 0))
