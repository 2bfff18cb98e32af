import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.training.options import TrainOptions
from tasks.training.schedule import SCHEDULES, learning_rate


@given(st.floats(0, 1), st.sampled_from(sorted(SCHEDULES)), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_stays_between_zero_and_its_peak(progress, schedule, warmup, min_lr):
    options = TrainOptions(lr=3.0, schedule=schedule, warmup=warmup, min_lr=min_lr)
    assert 0 <= learning_rate(progress, options) <= 3.0 + 1e-9


def test_warm_up_is_linear_from_zero():
    options = TrainOptions(lr=1.0, warmup=0.1)
    assert learning_rate(0.0, options) == 0
    assert learning_rate(0.05, options) == pytest.approx(0.5)
    assert learning_rate(0.1, options) == pytest.approx(1.0)


def test_cosine_falls_to_its_floor():
    options = TrainOptions(lr=1.0, warmup=0.0, min_lr=0.1)
    assert learning_rate(0.5, options) == pytest.approx(0.55)
    assert learning_rate(1.0, options) == pytest.approx(0.1)


def test_wsd_is_flat_and_falls_only_at_the_end():
    options = TrainOptions(lr=1.0, warmup=0.0, schedule="wsd", decay=0.2, min_lr=0.0)
    assert learning_rate(0.79, options) == pytest.approx(1.0)
    assert learning_rate(0.9, options) == pytest.approx(0.5)
    assert learning_rate(1.0, options) == pytest.approx(0.0)


def test_constant_stays():
    options = TrainOptions(lr=0.5, warmup=0.0, schedule="constant")
    assert {learning_rate(step / 10, options) for step in range(11)} == {0.5}
