"""Preference pairs as samples, and which reference belongs to them."""

import pytest
from transformers import AutoTokenizer

from tasks.align.pairs import Pairs, PairSamples, render_pairs
from tasks.align.reference_file import facts_of, read_reference, write_reference
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.stage import Input
from tasks.training.interface import NOT_SUPERVISED


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def pair(key: str, question: str, chosen: str, rejected: str) -> dict[str, object]:
    return {
        "key": key,
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


ROWS = [
    pair("a", "the list", "is empty", "is a number of names"),
    pair("b", "the value", "is a string", "if"),
    pair("c", "the key " * 40, "is a name", "or"),
]


def test_only_the_answers_are_supervised(tokenizer):
    pairs = render_pairs(ROWS, tokenizer, 60)
    samples = PairSamples(pairs.rows, [(-1.0, -2.0), (-3.0, -4.0)], fill=tokenizer.pad_token_id)
    batch = samples.batch([1, 0])
    learnt = [
        tokenizer.decode([token for token in labels.tolist() if token != NOT_SUPERVISED])
        for labels in batch["labels_B2T"].flatten(0, 1)
    ]
    assert learnt == ["is a string<|eos|>", "if<|eos|>", "is empty<|eos|>", "is a number of names<|eos|>"]
    assert batch["reference_B2"].tolist() == [[-3.0, -4.0], [-1.0, -2.0]]
    assert batch["input_ids_B2T"].shape == batch["position_ids_B2T"].shape == batch["labels_B2T"].shape
    assert int(batch["tokens"]) == samples.tokens
    assert batch["input_ids_B2T"][0, 1, -1] == tokenizer.pad_token_id


def test_long_pairs_are_left_out_and_counted(tokenizer):
    report = render_pairs(ROWS, tokenizer, 60).report
    assert (report["rows"], report["kept"]) == (3, 2)
    assert report["dropped"]["longer than max_length"] == {"rows": 1, "first_keys": ["c"]}
    assert report["end_share"] == 1.0


def test_no_pairs_left_is_an_error(tokenizer):
    with pytest.raises(DataInvalid, match="all are longer than max_length"):
        render_pairs(ROWS, tokenizer, 5)
    with pytest.raises(DataInvalid, match="is empty"):
        render_pairs([], tokenizer, 5)


def test_a_pair_that_cannot_be_rendered_is_named_with_its_side(tokenizer):
    broken = pair("d", "the list", "is <|eos|> empty", "no")
    with pytest.raises(DataInvalid, match=r"row 'd \(chosen\)'"):
        render_pairs([broken], tokenizer, 60)


@pytest.fixture
def made(tiny_model_dir, tokenizer, tmp_path):
    """A written reference: the input, the pairs and the facts."""
    model = Input("tuned", "m1", "model", tiny_model_dir)
    data = Input("data.pairs", "p1", "pairs", tmp_path)
    pairs = render_pairs(ROWS, tokenizer, 60)
    facts = facts_of(model, data, tokenizer, 60, "fp32")
    write_reference(tmp_path, pairs.rows, [(-1.5, -2.5), (-3.5, -4.5)], facts)
    return Input("opinions", "r1", "reference", tmp_path), pairs, facts


def test_a_reference_is_read_back_for_the_same_facts(made):
    reference, pairs, facts = made
    assert read_reference(reference, pairs.rows, facts, "aligned") == [(-1.5, -2.5), (-3.5, -4.5)]


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ("model", "another starting model"),
        ("pairs", "other pairs"),
        ("tokenizer", "another tokenizer"),
        ("template", "another chat template"),
        ("max_length", "another max_length"),
        ("precision", "another precision"),
    ],
)
def test_a_reference_of_something_else_is_refused(made, fact, words):
    reference, pairs, facts = made
    with pytest.raises(ConfigInvalid, match=rf"step 'aligned'.*'opinions' was made with {words}"):
        read_reference(reference, pairs.rows, {**facts, fact: "changed"}, "aligned")


def test_a_reference_that_covers_other_answers_is_refused(made):
    reference, pairs, facts = made
    with pytest.raises(ConfigInvalid, match="covers other answers"):
        read_reference(reference, Pairs(pairs.rows[:1], {}).rows, facts, "aligned")
