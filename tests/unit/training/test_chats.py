"""Conversations as samples: length policy, packing, what stands in a batch."""

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tasks.recipe.failures import DataInvalid
from tasks.training.chats import ChatSamples, Conversations, pack, render_chats
from tasks.training.interface import NOT_SUPERVISED
from tasks.training.render import Rendered


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def chat(key: str, *contents: str) -> dict[str, object]:
    roles = ("user", "assistant")
    return {
        "key": key,
        "messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)],
    }


CHATS = [
    chat("short", "the list", "is empty"),
    chat("two", "the key", "is a number", "and the value", "is a string"),
    chat("long", "the value " * 30, "is returned"),
    chat("long answer", "the object", "is a name " * 30),
]


def rendered(tokenizer: PreTrainedTokenizerBase, **more: object) -> Conversations:
    options = {"max_length": 60, "too_long": "drop", "turns": "all"} | more
    return render_chats(CHATS, tokenizer, **options)  # type: ignore[arg-type]


def test_long_conversations_are_left_out_and_counted(tokenizer):
    found = rendered(tokenizer)
    assert [key for key, _ in found.rows] == ["short", "two"]
    assert found.report["dropped"] == {
        "longer than max_length": {"rows": 2, "first_keys": ["long", "long answer"]}
    }
    assert found.report["end_share"] == 1.0


def test_cut_conversations_are_counted_and_lose_their_end(tokenizer):
    found = rendered(tokenizer, too_long="truncate")
    assert [key for key, _ in found.rows] == ["short", "two", "long answer"]
    assert found.report["truncated"]["first_keys"] == ["long answer"]
    assert found.report["dropped"] == {
        "its answers begin after max_length": {"rows": 1, "first_keys": ["long"]}
    }
    cut = found.rows[-1][1]
    assert (len(cut.input_ids), cut.answers, cut.ends) == (60, 1, 0)
    assert found.report["end_share"] == pytest.approx(3 / 4)


def test_the_last_answer_only(tokenizer):
    every, last = rendered(tokenizer).rows[1][1], rendered(tokenizer, turns="last").rows[1][1]
    assert (every.answers, last.answers) == (2, 1)
    assert last.supervised < every.supervised
    assert last.mask[-1]


def test_nothing_left_is_an_error_with_the_reasons(tokenizer):
    with pytest.raises(
        DataInvalid, match=r"none of 4 conversations is left: 4 longer than max_length \(10\)"
    ):
        rendered(tokenizer, max_length=10)
    with pytest.raises(DataInvalid, match="the dataset is empty"):
        render_chats([], tokenizer, max_length=10, too_long="drop", turns="all")


def row(*tokens: int) -> Rendered:
    return Rendered(list(tokens), [False, *[True] * (len(tokens) - 1)], 1, 1)


def test_a_batch_is_padded_on_the_right_and_padding_is_not_supervised():
    samples = ChatSamples([row(5, 6, 7), row(8, 9)], fill=7)
    batch = samples.batch([1, 0])
    assert batch["input_ids_BT"].tolist() == [[8, 9, 7], [5, 6, 7]]
    assert batch["labels_BT"].tolist() == [[NOT_SUPERVISED, 9, NOT_SUPERVISED], [NOT_SUPERVISED, 6, 7]]
    assert batch["position_ids_BT"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch["lengths_BT"].tolist() == [[2, 2, 1], [3, 3, 3]]
    assert int(batch["tokens"]) == samples.tokens == 5


def test_packed_conversations_restart_their_positions_and_padding_does_not():
    samples = ChatSamples([row(1, 2, 3), row(4, 5), row(6, 7, 8, 9)], fill=0, capacity=5)
    assert samples.bins == [[2], [0, 1]]
    batch = samples.batch([0, 1])
    assert batch["input_ids_BT"].tolist() == [[6, 7, 8, 9, 0], [1, 2, 3, 4, 5]]
    assert batch["position_ids_BT"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert batch["lengths_BT"].tolist() == [[4, 4, 4, 4, 1], [3, 3, 3, 2, 2]]
    assert batch["labels_BT"][1].tolist() == [NOT_SUPERVISED, 2, 3, NOT_SUPERVISED, 5]


def test_packing_supervises_the_same_tokens(tokenizer):
    rows = [one for _, one in rendered(tokenizer).rows]
    loose, packed = (ChatSamples(rows, 0, capacity) for capacity in (None, 60))
    assert len(packed) < len(loose)

    def supervised(samples: ChatSamples) -> list[int]:
        labels = samples.batch(range(len(samples)))["labels_BT"]
        return sorted(labels[labels != NOT_SUPERVISED].tolist())

    assert supervised(loose) == supervised(packed)
    assert loose.tokens == packed.tokens


def test_bins_hold_every_row_once_and_never_too_much():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 65, (300,), generator=generator).tolist()
    bins = pack(lengths, 64)
    assert sorted(index for rows in bins for index in rows) == list(range(300))
    assert max(sum(lengths[index] for index in rows) for rows in bins) <= 64
    assert len(bins) <= 1.05 * sum(lengths) / 64 + 1
    assert pack(lengths, 64) == bins
