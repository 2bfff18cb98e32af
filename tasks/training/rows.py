"""Rows of a dataset artefact, and rows of tokens as rectangles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.recipe.failures import DataInvalid


def read_rows(directory: Path) -> Iterator[dict[str, Any]]:
    """The rows of a dataset artefact, in order.

    Raises:
        DataInvalid: A line is not a JSON object; the message has its number.
    """
    with (directory / "rows.jsonl").open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataInvalid(f"rows.jsonl, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataInvalid(f"rows.jsonl, line {number}: a JSON object is expected, got {line[:40]!r}")
            yield row


def right_pad(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """The rows as one tensor, each filled up on the right; shape (rows, longest)."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)
