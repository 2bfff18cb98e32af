"""Conversations as training samples: rendered, cut to length, packed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from tasks.recipe.failures import DataInvalid
from tasks.training.interface import NOT_SUPERVISED, Batch
from tasks.training.render import Rendered, mask_report, render
from tasks.training.rows import right_pad


@dataclass(frozen=True)
class Conversations:
    """What is trained on, by key, and the report of it."""

    rows: list[tuple[str, Rendered]]
    report: dict[str, Any]


def render_chats(
    chats: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    too_long: Literal["drop", "truncate"],
    turns: Literal["all", "last"],
) -> Conversations:
    """Renders every conversation and applies the length policy.

    Args:
        chats: Rows of kind chats.
        tokenizer: With a chat template.
        max_length: Longest sample, in tokens.
        too_long: Leave longer conversations out, or cut their end (their last answer then teaches no stop).
        turns: Supervise every answer, or the last only.

    Raises:
        DataInvalid: A row cannot be rendered or has nothing supervised, or no row is left.
    """
    kept: list[tuple[str, Rendered]] = []
    dropped: dict[str, list[str]] = {"longer than max_length": [], "its answers begin after max_length": []}
    truncated: list[str] = []
    for chat in chats:
        key, messages = str(chat["key"]), chat["messages"]
        answers = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        first = answers[-1] if turns == "last" and answers else 0
        row = render(tokenizer, messages, key, first)
        if len(row.input_ids) > max_length:
            if too_long == "drop":
                dropped["longer than max_length"].append(key)
                continue
            row = _cut(row, max_length)
            if not row.supervised:
                dropped["its answers begin after max_length"].append(key)
                continue
            truncated.append(key)
        kept.append((key, row))
    report = mask_report(kept, dropped, truncated)
    if not kept:
        raise DataInvalid(
            f"none of {report['rows']} conversations is left: "
            + (
                "; ".join(f"{len(keys)} {reason} ({max_length})" for reason, keys in dropped.items() if keys)
                or "the dataset is empty"
            )
        )
    return Conversations(kept, report)


class ChatSamples:
    """Conversations, one or several to a sample; satisfies `tasks.training.interface.Samples`."""

    def __init__(self, rows: Sequence[Rendered], fill: int, capacity: int | None = None) -> None:
        """Fixes the samples.

        Args:
            rows: The conversations.
            fill: Token that fills a sample up to its batch's longest.
            capacity: Pack several conversations into samples of so many tokens; None keeps one a sample.
        """
        self.rows = rows
        self.fill = fill
        lengths = [len(row.input_ids) for row in rows]
        self.bins = pack(lengths, capacity) if capacity else [[index] for index in range(len(rows))]
        self.tokens = sum(lengths)
        self.longest = max(sum(lengths[row] for row in bin_) for bin_ in self.bins)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.bins)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples at `indices`, right-padded; positions restart at every conversation.

        Besides the usual there is `lengths_BT`: the tokens of each position's conversation, 1 in padding.
        """
        ids, positions, labels, lengths = [], [], [], []
        for index in indices:
            rows = [self.rows[row] for row in self.bins[index]]
            ids.append([token for row in rows for token in row.input_ids])
            positions.append([position for row in rows for position in range(len(row.input_ids))])
            lengths.append([len(row.input_ids) for row in rows for _ in row.input_ids])
            labels.append(
                [
                    token if supervised else NOT_SUPERVISED
                    for row in rows
                    for token, supervised in zip(row.input_ids, row.mask, strict=True)
                ]
            )
        input_ids_BT = right_pad(ids, self.fill)
        # Padding goes on counting: a restart would make the model look for documents in it.
        for row, length in zip(positions, (len(row) for row in positions), strict=True):
            row.extend(range(row[-1] + 1, row[-1] + 1 + input_ids_BT.shape[1] - length))
        return {
            "input_ids_BT": input_ids_BT,
            "position_ids_BT": torch.tensor(positions, dtype=torch.long),
            "labels_BT": right_pad(labels, NOT_SUPERVISED),
            "lengths_BT": right_pad(lengths, 1),
            "tokens": torch.tensor(sum(len(row) for row in ids)),
        }


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: rows into as few bins of `capacity` tokens as that heuristic finds.

    Krell et al. 2021 (arXiv 2107.02027), with the space left by number of tokens in buckets, so that a row
    costs a look through at most `capacity` of them. Equal lengths keep their order: the same input gives the
    same bins.
    """
    bins: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        length = lengths[index]
        space = next((space for space in range(length, capacity + 1) if by_space.get(space)), None)
        if space is None:
            space, number = capacity, len(bins)
            bins.append([])
        else:
            number = by_space[space].pop()
        bins[number].append(index)
        by_space.setdefault(space - length, []).append(number)
    return bins


def _cut(row: Rendered, length: int) -> Rendered:
    """The first `length` tokens; an answer that loses its end no longer counts as ended."""
    mask = row.mask[:length]
    runs = sum(now and not before for before, now in zip([False, *mask], mask, strict=False))
    ended = runs - (1 if mask[-1] and row.mask[length] else 0)
    return Rendered(row.input_ids[:length], mask, runs, min(ended, row.ends))
