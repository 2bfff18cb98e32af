"""A weight as its base's plus a product of integer matrices: the same bits on every machine.

    weight = base + 2^-shift * U diag(scales) V^T        U (rows, rank), V (columns, rank): integers of few
    bits

All entries are integers small enough that every partial sum of the product is an integer below 2^53, so
float64 computes it exactly in whatever order the machine adds; only the last addition rounds, once and by
IEEE's rule.

Shapes: R rows, C columns, K rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from tasks.recipe.failures import DataInvalid

EXACT = 2**53
"""Integers up to this are exact in float64."""

FILE = "delta_come.factors"
"""The file of a model directory that holds the factors of its weights: a line of JSON that says where each
weight's parts begin and how they are shaped, and the parts, compressed with zstandard."""

PARTS: Mapping[str, str] = {"U": "<i1", "V": "<i1", "scales": "<i4", "shift": "<i4"}
"""The parts of one weight and their numbers."""

LEVEL = 19
"""Codes of few values: the slowest setting still writes them in no time, beside the decomposition."""


def write_factors(file: Path, factors: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Write the factors of a model's weights, by the weight's name."""
    codec = pyarrow.Codec("zstd", compression_level=LEVEL)
    table: dict[str, dict[str, list[Any]]] = {}
    data: list[bytes] = []
    place = 0
    for name, parts in sorted(factors.items()):
        table[name] = {}
        for part, kind in PARTS.items():
            packed = codec.compress(np.ascontiguousarray(parts[part].T, dtype=kind).tobytes(), asbytes=True)
            table[name][part] = [place, len(packed), *parts[part].shape]
            data.append(packed)
            place += len(packed)
    file.write_bytes(json.dumps(table, separators=(",", ":")).encode() + b"\n" + b"".join(data))


def read_factors(file: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Weight -> its factors; none where there is no such file.

    Raises:
        DataInvalid: It is broken.
    """
    if not file.is_file():
        return {}
    first, _, data = file.read_bytes().partition(b"\n")
    codec = pyarrow.Codec("zstd")
    found: dict[str, dict[str, NDArray[Any]]] = {}
    try:
        for name, parts in json.loads(first).items():
            found[name] = {}
            for part, kind in PARTS.items():
                place, size, *shape = parts[part]
                count = int(np.prod(shape)) * np.dtype(kind).itemsize
                raw = codec.decompress(data[place : place + size], decompressed_size=count, asbytes=True)
                found[name][part] = np.frombuffer(raw, dtype=kind).reshape(shape[::-1]).T
    except (ValueError, KeyError, TypeError, OSError, pyarrow.ArrowInvalid) as error:
        raise DataInvalid(f"{file}: the factors of this model are broken: {error}") from error
    return found


def product(parts: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The difference from the base that the factors stand for, shape (R, C).

    Raises:
        ValueError: The integers are too large for the product to be exact.
    """
    u_RK, v_CK = parts["U"].astype(np.float64), parts["V"].astype(np.float64)
    scales_K = parts["scales"].astype(np.float64)
    largest = float(np.abs(u_RK).max(initial=0) * np.abs(v_CK).max(initial=0) * np.abs(scales_K).sum())
    if largest >= EXACT:
        raise ValueError("the factors' product is not exact in float64")
    whole_RC: NDArray[np.float64] = (u_RK * scales_K) @ v_CK.T
    return np.ldexp(whole_RC, -int(parts["shift"][0]))


def applied(base: NDArray[Any], dtype: str, parts: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The weight's words: the base's value plus the product, rounded to the weight's own numbers.

    Args:
        base: The base's words, flat: unsigned integers of the element's size.
        dtype: F32, F16 or BF16, of both.
        parts: The factors.
    """
    difference = product(parts)
    return from_float64(to_float64(base, dtype) + difference.reshape(-1), dtype)


def to_float64(words: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """The numbers that words stand for; exact."""
    if dtype == "BF16":
        return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return words.view({"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float64)


def from_float64(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Words of the nearest numbers, ties to even."""
    if dtype == "F32":
        return values.astype(np.float32).view(np.uint32)
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)
