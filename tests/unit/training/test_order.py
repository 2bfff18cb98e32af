import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.recipe.failures import ConfigInvalid
from tasks.training.order import indices_at, micro_batches, permutation, total_samples


@given(st.integers(0, 2**40), st.integers(0, 100), st.integers(1, 300))
def test_every_epoch_has_each_sample_once(seed, epoch, samples):
    assert sorted(permutation(seed, epoch, samples).tolist()) == list(range(samples))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(permutation(seed, epoch, 50).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_the_order_is_what_it_was_when_runs_were_recorded():
    permutation.cache_clear()
    assert permutation(0, 0, 8).tolist() == [2, 3, 6, 1, 7, 5, 4, 0]


@given(st.integers(1, 40), st.lists(st.integers(1, 25), min_size=1, max_size=12))
def test_reading_in_any_steps_gives_the_same_stream(samples, steps):
    whole = indices_at(7, samples, 0, sum(steps)).tolist()
    read, position = [], 0
    for count in steps:
        read += indices_at(7, samples, position, count).tolist()
        position += count
    assert read == whole


@given(st.integers(1, 50), st.integers(1, 6), st.integers(1, 4))
def test_micro_batches_share_a_step_without_loss(count, accumulation, world_size):
    step = np.arange(count)
    shares = [micro_batches(step, accumulation, world_size, rank) for rank in range(world_size)]
    assert all(len(share) == accumulation for share in shares)
    assert sorted(np.concatenate([part for share in shares for part in share]).tolist()) == step.tolist()


def test_total_counts_fractions_of_epochs_and_max_steps():
    assert total_samples(100, 1.5, 8, None) == 150
    assert total_samples(100, 3, 8, 10) == 80
    assert total_samples(10, 0.1 + 0.2, 1, None) == 3


@pytest.mark.parametrize(("samples", "epochs"), [(7, 1.0), (100, 0.05)])
def test_less_data_than_one_step_is_refused(samples, epochs):
    with pytest.raises(ConfigInvalid, match="one optimiser step takes 8"):
        total_samples(samples, epochs, 8, None)
