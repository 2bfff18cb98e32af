"""A safetensors file as its exact difference from another model's tensors, small where they are related.

Tensor by tensor, in the order of the file:

    same        the base has these very bytes
    difference  the base has the same name, type and shape: the difference of the numbers' places in their
                order, zigzag, byte plane by byte plane, compressed
    factors     the model's file `delta_come.factors` gives it (tasks/artefacts/factors.py): nothing is kept
    plain       the bytes, plane by plane, compressed

The order of floating-point numbers is that of their bits read as sign and magnitude, so two close numbers
have places close together whatever their exponents, and the upper planes of their difference are nearly all
zero (as FM-Delta, Ning et al. 2024, NeurIPS; there an entropy coder, here zstandard, which pyarrow brings).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tasks.artefacts.factors import applied
from tasks.recipe.failures import DataInvalid

WORDS = 1 << 22
"""Elements compressed at a time: what is in memory at any moment, whatever the tensor's size."""

LEVEL = 6
SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
"""Bytes of an element by safetensors type; of every other type, single bytes are compared."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class Part(BaseModel):
    """How one tensor is kept: `chunks` holds, for each run of elements, the compressed size of each plane."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    how: Literal["same", "difference", "factors", "plain"]
    chunks: list[list[int]] = []


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file: its type, its shape and where its bytes are."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def width(self) -> int:
        """Bytes of what is compared."""
        return SIZES.get(self.dtype, 1)

    def words(self, first: int, count: int) -> NDArray[Any]:
        """Elements as unsigned integers."""
        whole = np.memmap(self.file, dtype=np.uint8, mode="r", offset=self.start, shape=(self.size,))
        return np.array(whole[first * self.width : (first + count) * self.width]).view(f"<u{self.width}")


def tensors_of(file: Path) -> tuple[bytes, list[Tensor]]:
    """A safetensors file's header, byte for byte, and its tensors in the order of their bytes.

    Raises:
        DataInvalid: It is none, or has bytes that belong to no tensor.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > size - 8:
            raise DataInvalid(f"{file}: no safetensors file")
        head = first + stream.read(length)
    try:
        entries: dict[str, Any] = json.loads(head[8:])
        found = [
            Tensor(file, name, e["dtype"], tuple(e["shape"]), len(head) + e["data_offsets"][0],
                   e["data_offsets"][1] - e["data_offsets"][0])
            for name, e in entries.items()
            if name != "__metadata__"
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise DataInvalid(f"{file}: the header of this safetensors file is broken: {error}") from error
    found.sort(key=lambda tensor: tensor.start)
    end = len(head)
    for tensor in found:
        if tensor.start != end or tensor.size % tensor.width:
            raise DataInvalid(f"{file}: bytes between its tensors belong to none of them")
        end += tensor.size
    if end != size:
        raise DataInvalid(f"{file}: {size - end} bytes at its end belong to no tensor")
    return head, found


def all_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a model directory by name."""
    return {
        tensor.name: tensor
        for file in sorted(directory.glob("*.safetensors"))
        for tensor in tensors_of(file)[1]
    }


def encode(
    file: Path, base: Mapping[str, Tensor], factors: Mapping[str, Mapping[str, NDArray[Any]]], out: IO[bytes]
) -> tuple[bytes, list[Part]]:
    """Write what a safetensors file has beyond its base; the file's header, and how each tensor is kept.

    Args:
        file: The file.
        base: The base's tensors by name.
        factors: Of the model, where it has some.
        out: Gets the compressed bytes.

    Raises:
        DataInvalid: It is no safetensors file.
    """
    head, tensors = tensors_of(file)
    return head, [
        _encode_tensor(tensor, base.get(tensor.name), factors.get(tensor.name), out) for tensor in tensors
    ]


def decode(
    head: bytes,
    parts: list[Part],
    base: Mapping[str, Tensor],
    factors: Mapping[str, Mapping[str, NDArray[Any]]],
    source: IO[bytes],
    out: IO[bytes],
) -> None:
    """Write the file again, byte for byte, from what `encode` gave and the base; the caller checks it.

    Raises:
        DataInvalid: The base lacks a tensor, or the bytes do not fit.
    """
    out.write(head)
    entries: dict[str, Any] = json.loads(head[8:])
    for part in parts:
        entry = entries[part.name]
        start, end = entry["data_offsets"]
        width = SIZES.get(entry["dtype"], 1)
        beside = base.get(part.name)
        if part.how != "plain" and (beside is None or beside.size != end - start):
            raise DataInvalid(f"the base has no tensor '{part.name}' of {end - start} bytes")
        if part.how == "factors":
            assert beside is not None
            words = beside.words(0, beside.size // width)
            out.write(applied(words, entry["dtype"], factors[part.name]).astype(f"<u{width}").tobytes())
            continue
        for place, count in _runs((end - start) // width):
            if part.how == "same":
                assert beside is not None
                out.write(beside.words(place, count).tobytes())
                continue
            words = _join(source, part.chunks[place // WORDS], count, width)
            if part.how == "difference":
                assert beside is not None
                words = _add(beside.words(place, count), words, entry["dtype"])
            out.write(words.tobytes())


def _encode_tensor(
    tensor: Tensor, base: Tensor | None, factors: Mapping[str, NDArray[Any]] | None, out: IO[bytes]
) -> Part:
    alike = base is not None and (base.dtype, base.shape) == (tensor.dtype, tensor.shape)
    count = tensor.size // tensor.width
    if not alike:
        return Part(
            name=tensor.name,
            how="plain",
            chunks=[_split(out, tensor.words(place, run), tensor.width) for place, run in _runs(count)],
        )
    assert base is not None
    if all(np.array_equal(tensor.words(*run), base.words(*run)) for run in _runs(count)):
        return Part(name=tensor.name, how="same")
    if factors is not None and tensor.dtype in FLOATS - {"F64"}:
        given = applied(base.words(0, count), tensor.dtype, factors)
        if np.array_equal(given, tensor.words(0, count)):
            return Part(name=tensor.name, how="factors")
    chunks = [
        _split(out, _subtract(tensor.words(*run), base.words(*run), tensor.dtype), tensor.width)
        for run in _runs(count)
    ]
    return Part(name=tensor.name, how="difference", chunks=chunks)


def _runs(count: int) -> Iterator[tuple[int, int]]:
    """First element and number of elements of each run."""
    return ((place, min(WORDS, count - place)) for place in range(0, count, WORDS))


def _subtract(words: NDArray[Any], base: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The difference of the places, with its sign in the lowest bit (wrapping around, so always exact)."""
    if dtype in FLOATS:
        words, base = _place(words), _place(base)
    difference = words - base
    bits = difference.dtype.itemsize * 8
    one = difference.dtype.type(1)
    negative = difference >> difference.dtype.type(bits - 1)
    coded: NDArray[Any] = (difference << one) ^ (difference.dtype.type(0) - negative)
    return coded


def _add(base: NDArray[Any], coded: NDArray[Any], dtype: str) -> NDArray[Any]:
    one = coded.dtype.type(1)
    difference: NDArray[Any] = (coded >> one) ^ (coded.dtype.type(0) - (coded & one))
    if dtype in FLOATS:
        return _word(_place(base) + difference)
    words: NDArray[Any] = base + difference
    return words


def _place(words: NDArray[Any]) -> NDArray[Any]:
    """The place of a floating-point number in their order, from its bits."""
    top = words.dtype.type(1 << (words.dtype.itemsize * 8 - 1))
    places: NDArray[Any] = np.where(words & top, ~words, words | top)
    return places


def _word(places: NDArray[Any]) -> NDArray[Any]:
    top = places.dtype.type(1 << (places.dtype.itemsize * 8 - 1))
    words: NDArray[Any] = np.where(places & top, places ^ top, ~places)
    return words


def _split(out: IO[bytes], words: NDArray[Any], width: int) -> list[int]:
    """Compress a run of elements plane by plane; the size of each."""
    codec = pyarrow.Codec("zstd", compression_level=LEVEL)
    planes = words.view(np.uint8).reshape(-1, width)
    sizes = []
    for number in range(width):
        packed = codec.compress(np.ascontiguousarray(planes[:, number]).tobytes(), asbytes=True)
        out.write(packed)
        sizes.append(len(packed))
    return sizes


def _join(source: IO[bytes], sizes: list[int], count: int, width: int) -> NDArray[Any]:
    codec = pyarrow.Codec("zstd")
    planes = np.empty((count, width), dtype=np.uint8)
    for number, size in enumerate(sizes):
        packed = source.read(size)
        try:
            plane = codec.decompress(packed, decompressed_size=count, asbytes=True)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataInvalid(f"the compressed difference is broken: {error}") from error
        planes[:, number] = np.frombuffer(plane, dtype=np.uint8)
    return planes.view(f"<u{width}").reshape(-1)
