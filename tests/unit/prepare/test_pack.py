import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tasks.prepare import METHODS
from tasks.prepare.methods.pack import PackOptions, estimate, run
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.training.models import load_tokenizer, tokenizer_digest
from tasks.training.packed import PackedSamples


@pytest.fixture
def inputs(tiny_model_dir, write_rows):
    def make(news, general=None):
        given = {
            "model": ("model", tiny_model_dir),
            "documents": (
                "documents",
                write_rows("news", [{"key": str(i), "text": t} for i, t in enumerate(news)]),
            ),
        }
        if general is not None:
            rows = [{"key": str(i), "text": t} for i, t in enumerate(general)]
            given["replay"] = ("documents", write_rows("general", rows))
        return given

    return make


NEWS = [f"the function number {n} returns a list of names" for n in range(30)]
GENERAL = [f"every key {n} of the mapping is a string or an object" for n in range(60)]


def texts_of(directory: Path, model_dir: Path) -> list[str]:
    """Every piece of the artefact as text."""
    tokenizer = load_tokenizer(model_dir)
    samples = PackedSamples(directory)
    found = []
    for row in range(len(samples)):
        batch = samples.batch([row])
        ids, positions = batch["input_ids_BT"][0].tolist(), batch["position_ids_BT"][0].tolist()
        starts = [i for i, position in enumerate(positions) if position == 0] + [len(ids)]
        found += [tokenizer.decode(ids[a:b]) for a, b in pairwise(starts)]
    return [text for text in found if not text.startswith("<|pad|>")]


def test_all_documents_come_back_and_the_facts_hold(make_context, inputs, tiny_model_dir):
    context = make_context(inputs([*NEWS, NEWS[0] + " ", "   "]))
    result = run(context, PackOptions(sequence_length=64))
    meta = result.meta["tokens"]
    directory = context.output("tokens")
    assert sorted(texts_of(directory, tiny_model_dir)) == sorted(f"<|bos|>{text}<|eos|>" for text in NEWS)
    assert (meta["documents"], meta["duplicates"], meta["empty"], meta["replay_share"]) == (30, 1, 1, 0.0)
    assert meta["tokens"] == PackedSamples(directory).tokens
    assert meta["tokenizer"] == tokenizer_digest(tiny_model_dir)
    assert meta["tokens"] + meta["padding"] == meta["sequences"] * 64
    assert json.loads((directory / "index.json").read_text())["sequence_length"] == 64


def test_replay_has_its_share_and_never_repeats_the_news(make_context, inputs, tiny_model_dir):
    context = make_context(inputs(NEWS, [*GENERAL, *NEWS]))
    result = run(context, PackOptions(sequence_length=64, replay=0.25))
    assert result.meta["tokens"]["replay_share"] == pytest.approx(0.25, abs=0.01)
    assert "25." in result.figure or "24.9" in result.figure
    pieces = texts_of(context.output("tokens"), tiny_model_dir)
    assert sum("function number" in piece for piece in pieces) == len(NEWS)


def test_the_same_inputs_give_the_same_bytes(make_context, inputs, tmp_path):
    given = inputs(NEWS, GENERAL)
    written = []
    for name in ("one", "two"):
        context = make_context(given, directory=tmp_path / name)
        run(context, PackOptions(sequence_length=64, replay=0.5))
        files = sorted(context.output("tokens").iterdir())
        written.append({file.name: file.read_bytes() for file in files})
    assert written[0] == written[1]
    assert set(written[0]) == {"tokens.bin", "pieces.npy", "rows.npy", "index.json"}


def test_what_cannot_be_done_is_refused(make_context, inputs):
    with pytest.raises(ConfigInvalid, match="no input 'replay'"):
        run(make_context(inputs(NEWS)), PackOptions(sequence_length=64, replay=0.1))
    with pytest.raises(ConfigInvalid, match="257 is more than the 256 positions"):
        run(make_context(inputs(NEWS)), PackOptions(sequence_length=257))
    with pytest.raises(DataInvalid, match="no text is left"):
        run(make_context(inputs([" "])), PackOptions(sequence_length=64))


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b'{"key": "a", "text": "ok"}\n{"key": "b", "te', "line 2: not JSON"),
        (b'{"key": "a", "text": "\xff"}\n', "line 1: not UTF-8"),
        (b'{"key": "a", "text": 3}\n', "line 1: needs a string 'text'"),
    ],
)
def test_broken_rows_are_named_by_line(raw, what, make_context, inputs):
    given = inputs(NEWS)
    (given["documents"][1] / "rows.jsonl").write_bytes(raw)
    with pytest.raises(DataInvalid, match=what):
        run(make_context(given), PackOptions(sequence_length=64))


def test_the_estimate_is_near_what_comes_out(make_context, inputs):
    characters = sum(map(len, NEWS))
    facts: dict[str, list[Mapping[str, Any]]] = {
        "documents": [{"characters": characters}],
        "model": [{"vocab_size": 300}],
    }
    guessed = estimate(PackOptions(sequence_length=64, replay=0.25), facts).meta["tokens"]
    assert guessed["tokens"] == pytest.approx(characters / 3.2 / 0.75, rel=0.01)
    assert guessed["sequences"] == -(-guessed["tokens"] // 64)
    assert estimate(PackOptions(), {"documents": [{}]}).meta == {}


def test_pack_is_the_default():
    assert next(iter(METHODS)) == "pack"
