"""The streaming reader and writer against the reference implementation of safetensors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.merge.weights import Entry, ShardWriter, open_weights, plan_shards, write_index
from tasks.recipe.failures import ConfigInvalid, DataInvalid


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "b.weight": torch.randn(3, 5),
        "a.weight": torch.randn(4).to(torch.bfloat16),
        "mask": torch.arange(6, dtype=torch.int64).reshape(2, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float16),
    }


def written(directory: Path, shard_bytes: int) -> dict[str, list[str]]:
    save_file(tensors(), directory / "model.safetensors", metadata={"format": "pt"})
    source = open_weights(directory, "m")
    shards = plan_shards(source.entries, shard_bytes)
    out = directory / "out"
    out.mkdir()
    for file, names in shards.items():
        with ShardWriter(out / file, names, source.entries) as writer:
            for name in names:
                writer.write(name, source.read(name))
    write_index(out, shards, sum(entry.size for entry in source.entries.values()))
    return shards


def test_one_file_equals_the_reference_writer_byte_for_byte(tmp_path: Path):
    written(tmp_path, 1_000_000)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_shards_read_back_by_the_reference_reader_and_by_ours(tmp_path: Path):
    shards = written(tmp_path, 64)
    assert len(shards) > 1
    loaded = {name: value for file in shards for name, value in load_file(tmp_path / "out" / file).items()}
    again = open_weights(tmp_path / "out", "m")
    for name, tensor in tensors().items():
        assert torch.equal(loaded[name], tensor)
        assert torch.equal(again.read(name), tensor)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 15 + 2 * 4 + 8 * 6 + 2


def test_no_file_exceeds_the_limit_unless_one_tensor_does():
    entries = {
        str(i): Entry(Path("x"), "F32", (size,), 0, 4 * size) for i, size in enumerate([10, 10, 10, 50])
    }
    assert list(plan_shards(entries, 80).values()) == [["0", "1"], ["2"], ["3"]]


def write_all(path: Path, tensors: list[tuple[str, int]]) -> None:
    entries = {name: Entry(Path("x"), "F32", (2,), 0, 8) for name in "ab"}
    with ShardWriter(path, ["a", "b"], entries) as writer:
        for name, size in tensors:
            writer.write(name, torch.zeros(size))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [([("b", 2)], "order"), ([("a", 3)], "is (3,)"), ([("a", 2)], "ended without tensor 'b'")],
)
def test_writer_refuses_another_order_shape_or_an_early_end(
    tmp_path: Path, tensors: list[tuple[str, int]], message: str
):
    with pytest.raises(RuntimeError, match=re.escape(message)):
        write_all(tmp_path / "x", tensors)


@pytest.mark.parametrize("length", [4, 40, 300])
def test_a_file_cut_short_is_named(tmp_path: Path, length: int):
    file = tmp_path / "model.safetensors"
    save_file(tensors(), file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataInvalid, match=r"'m'.*cut short"):
        open_weights(tmp_path, "m")


def test_a_quantised_or_absent_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigInvalid, match=r"no model\.safetensors"):
        open_weights(tmp_path, "m")
    save_file({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigInvalid, match="'w' is F8_E4M3"):
        open_weights(tmp_path, "m")
