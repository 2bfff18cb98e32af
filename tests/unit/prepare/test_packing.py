from hypothesis import given
from hypothesis import strategies as st

from tasks.prepare.packing import pack, pieces_of

LENGTHS = st.lists(st.integers(0, 60), max_size=40)


@given(LENGTHS, st.integers(2, 25))
def test_every_token_stands_once_and_no_row_overflows(lengths, sequence_length):
    rows = pack(lengths, sequence_length)
    pieces = [piece for row in rows for piece in row]
    assert sorted(pieces) == sorted(pieces_of(lengths, sequence_length))
    for document, length in enumerate(lengths):
        tokens = [token for piece in pieces if piece[0] == document for token in range(piece[1], piece[2])]
        dropped = 1 if length % sequence_length == 1 else 0
        assert sorted(tokens) == list(range(length - dropped))
    assert all(sum(end - begin for _, begin, end in row) <= sequence_length for row in rows)


@given(LENGTHS, st.integers(2, 25))
def test_no_two_rows_would_fit_into_one(lengths, sequence_length):
    sizes = sorted(sum(end - begin for _, begin, end in row) for row in pack(lengths, sequence_length))
    assert len(sizes) < 2 or sizes[0] + sizes[1] > sequence_length


def test_best_fit_takes_the_fullest_row_with_room():
    rows = pack([6, 5, 3, 4], 10)
    assert [[piece[0] for piece in row] for row in rows] == [[0, 3], [1, 2]]


def test_only_what_is_longer_than_a_row_is_cut():
    assert pack([25], 10) == [[(0, 0, 10)], [(0, 10, 20)], [(0, 20, 25)]]
