import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.prepare.replay import draw, replay_tokens
from tasks.recipe.failures import DataInvalid

OLD = [np.arange(start, start + 10) for start in range(0, 200, 10)]


@given(st.integers(0, 10**6), st.floats(0, 0.9))
def test_the_share_is_of_all_tokens(new_tokens, share):
    old = replay_tokens(new_tokens, share)
    assert abs(old - share * (new_tokens + old)) <= 1


@given(st.integers(0, 700))
def test_exactly_as_many_tokens_as_wanted_are_drawn(wanted):
    assert sum(map(len, draw(OLD, wanted, seed=1))) == wanted


def test_a_small_corpus_is_gone_through_whole_before_it_repeats():
    drawn = draw(OLD, 400, seed=0)
    first, second = drawn[:20], drawn[20:]
    starts = [[int(document[0]) for document in part] for part in (first, second)]
    assert sorted(starts[0]) == sorted(starts[1]) == list(range(0, 200, 10))
    assert starts[0] != starts[1]


def test_the_seed_decides():
    def starts(seed: int) -> list[int]:
        return [int(document[0]) for document in draw(OLD, 100, seed)]

    assert starts(3) == starts(3)
    assert starts(3) != starts(4)


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(DataInvalid, match="nothing is left to replay"):
        draw([], 5, seed=0)
