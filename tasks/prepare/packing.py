"""Packs documents into rows of one length: best fit decreasing, splitting only what is too long for a row."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

Piece = tuple[int, int, int]
"""Document, first token, one past the last."""


def pieces_of(lengths: Sequence[int], sequence_length: int) -> list[Piece]:
    """Cuts every document into pieces that fit a row. A last piece of one token teaches nothing: dropped."""
    return [
        (document, start, min(start + sequence_length, length))
        for document, length in enumerate(lengths)
        for start in range(0, length, sequence_length)
        if length - start > 1
    ]


def pack(lengths: Sequence[int], sequence_length: int) -> list[list[Piece]]:
    """Rows of pieces, each at most `sequence_length` tokens long together.

    Best fit decreasing (Ding et al., arXiv 2404.10830): the longest pieces first, each into the fullest row
    that still has room. A document is cut only where a row is too short for it, so nothing is truncated.

    Args:
        lengths: Tokens of each document.
        sequence_length: Tokens of a row.
    """
    pieces = sorted(pieces_of(lengths, sequence_length), key=lambda piece: (piece[1] - piece[2], piece))
    rows: list[list[Piece]] = []
    rooms: list[int] = []  # the distinct rooms left in open rows, ascending
    open_rows: dict[int, list[int]] = {}  # room -> rows with that room
    for piece in pieces:
        size = piece[2] - piece[1]
        at = bisect_left(rooms, size)
        if at < len(rooms):
            room = rooms[at]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        else:
            room, row = sequence_length, len(rows)
            rows.append([])
        rows[row].append(piece)
        left = room - size
        # A row with room for one token only is full: a piece has at least two.
        if left > 1:
            if left not in open_rows:
                open_rows[left] = []
                insort(rooms, left)
            open_rows[left].append(row)
    return rows
