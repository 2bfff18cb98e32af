"""Read and write safetensors files one tensor at a time.

The format is eight bytes of header length, a JSON header {name: {dtype, shape, data_offsets}} and the
tensors' bytes without gaps. Reading through a file handle instead of a memory map keeps the resident memory
at what is in use: mapped pages would count until the kernel drops them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from tasks.recipe.failures import ConfigInvalid, DataInvalid

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The element types that are read and written; anything else is a quantised model."""

HEADER_LIMIT = 100_000_000
"""The format's own limit on the header, in bytes."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its file, element type, shape and byte range in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class Weights:
    """The tensors of one model directory by name; reads them on demand, keeps none."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)

    def read(self, name: str) -> torch.Tensor:
        """A new tensor in the stored element type."""
        entry = self.entries[name]
        buffer = bytearray(entry.size)
        with entry.file.open("rb") as file:
            file.seek(entry.start)
            if file.readinto(buffer) != entry.size:
                raise DataInvalid(f"{entry.file}: ends inside tensor '{name}'; fetch the model again")
        if not buffer:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        return torch.frombuffer(buffer, dtype=DTYPES[entry.dtype]).reshape(entry.shape)

    def is_float(self, name: str) -> bool:
        """Whether the tensor holds floating-point numbers."""
        return DTYPES[self.entries[name].dtype].is_floating_point


def open_weights(directory: Path, ref: str) -> Weights:
    """The tensors of a model directory, from `model.safetensors` or the files its index names.

    Args:
        directory: A Hugging Face model directory.
        ref: The model's name in messages.

    Raises:
        ConfigInvalid: If there are no safetensors, or the model is quantised.
        DataInvalid: If a file is cut short or its header does not fit it.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    entries: dict[str, Entry] = {}
    for name in files:
        file = directory / name
        if not file.is_file():
            raise ConfigInvalid(
                f"model '{ref}': no {name}; a merge needs a full model as safetensors "
                "(merge an adapter into its model first, convert other formats)"
            )
        entries.update(_entries(file, ref))
    return Weights(entries)


def _entries(file: Path, ref: str) -> Iterator[tuple[str, Entry]]:
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise DataInvalid(f"model '{ref}': {file.name} is not a safetensors file or is cut short")
        header = json.loads(handle.read(length))
    for name, item in header.items():
        if name == "__metadata__":
            continue
        if item["dtype"] not in DTYPES:
            raise ConfigInvalid(
                f"model '{ref}': tensor '{name}' is {item['dtype']}; merge the models before quantising them"
            )
        start, end = item["data_offsets"]
        shape = tuple(item["shape"])
        if end - start != math.prod(shape) * DTYPES[item["dtype"]].itemsize or 8 + length + end > size:
            raise DataInvalid(f"model '{ref}': {file.name} is cut short at tensor '{name}'")
        yield name, Entry(file, item["dtype"], shape, 8 + length + start, end - start)


def nbytes(entry: Entry) -> int:
    """Bytes of a tensor of this entry's type and shape."""
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize


def plan_shards(entries: Mapping[str, Entry], shard_bytes: int) -> dict[str, list[str]]:
    """Which tensors go into which file, as few files as fit in order.

    Within a file the wider element types come first, then the names in order, as the reference writer does,
    so that every tensor is aligned to its element.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name in sorted(entries, key=lambda name: (-DTYPES[entries[name].dtype].itemsize, name)):
        size = nbytes(entries[name])
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": names
        for number, names in enumerate(groups, start=1)
    }


def write_index(directory: Path, shards: Mapping[str, Sequence[str]], total_size: int) -> None:
    """Write the index that says which file holds which tensor; nothing where there is one file."""
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        path = directory / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class ShardWriter:
    """Writes one safetensors file: the header first, then each tensor as it comes, in the header's order."""

    def __init__(self, path: Path, names: Sequence[str], entries: Mapping[str, Entry]) -> None:
        self.path = path
        self._left = list(reversed(names))
        self._entries = entries
        self._file: BinaryIO | None = None

    def __enter__(self) -> ShardWriter:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name in reversed(self._left):
            entry = self._entries[name]
            end = offset + nbytes(entry)
            header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight bytes
        self._file = self.path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        return self

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor, cast to the element type that the header declares."""
        entry = self._entries[name]
        if self._file is None or not self._left or self._left.pop() != name:
            raise RuntimeError(f"{self.path.name}: tensor '{name}' is out of the header's order")
        if tuple(tensor.shape) != entry.shape:
            raise RuntimeError(f"{self.path.name}: '{name}' is {tuple(tensor.shape)}, not {entry.shape}")
        data = tensor.to(DTYPES[entry.dtype]).contiguous().reshape(-1).view(torch.uint8)
        self._file.write(data.numpy().data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None and self._left:
            raise RuntimeError(f"{self.path.name}: ended without tensor '{self._left[-1]}'")
