"""Reads the files of a dataset, naming the file and the line of whatever is wrong with them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.recipe.failures import DataInvalid

Place = str
"""Where a row stands: "a.jsonl:12" (line), "a.parquet:12" (row), "a.json:12" (item), or "notes/a.txt"."""
Placed = Iterator[tuple[Place, Any]]

BATCH_ROWS = 1024
"""Rows of a parquet file that are in memory at once."""


def json_lines(path: Path, name: str) -> Placed:
    """The values of a JSON-lines file; empty lines are passed over."""
    with path.open("rb") as stream:
        yield from _lines(stream, name)


def json_lines_gz(path: Path, name: str) -> Placed:
    """The values of a gzipped JSON-lines file."""
    try:
        with gzip.open(path, "rb") as stream:
            yield from _lines(stream, name)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataInvalid(f"{name}: not a whole gzip file ({error}); write or copy the file again") from error


def json_list(path: Path, name: str) -> Placed:
    """The values of a JSON file that is one list; `place` counts them from 1."""
    values = _parse(_decoded(path.read_bytes(), name), name)
    if not isinstance(values, list):
        raise DataInvalid(
            f"{name}: holds one {_json_type(values)}, a list of rows is needed; "
            "for one object a line call the file .jsonl"
        )
    yield from ((f"{name}:{number}", value) for number, value in enumerate(values, 1))


def parquet(path: Path, name: str) -> Placed:
    """The rows of a Parquet file, a batch at a time; `place` counts them from 1."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name}:{number}", row
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        after = f" after row {number}" if number else ""
        raise DataInvalid(
            f"{name}: not a whole Parquet file{after} ({_first_line(error)}); write or copy the file again"
        ) from error


def text(path: Path, name: str) -> Placed:
    """The one document that a text file is."""
    yield name, {"key": name, "text": _decoded(path.read_bytes(), name)}


READERS: dict[str, Callable[[Path, str], Placed]] = {
    ".jsonl": json_lines,
    ".jsonl.gz": json_lines_gz,
    ".json": json_list,
    ".parquet": parquet,
    ".txt": text,
    ".md": text,
}
"""The formats, by how a file's name ends."""

PLAIN_TEXT = (".txt", ".md")


def ending(name: str) -> str | None:
    """Which key of `READERS` a file name ends with, or None."""
    return next((end for end in READERS if name.lower().endswith(end)), None)


def _lines(stream: Iterable[bytes], name: str) -> Placed:
    offset = 0
    for number, line in enumerate(stream, 1):
        place = f"{name}:{number}"
        if line.strip():
            yield place, _parse(_decoded(line, place, offset), place)
        offset += len(line)


def _decoded(data: bytes, place: Place, offset: int = 0) -> str:
    """`data` as UTF-8; a byte order mark at the beginning of a file is dropped."""
    try:
        return data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        line = "" if offset else f" (line {data[: error.start].count(10) + 1})"
        raise DataInvalid(
            f"{place}: not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}{line}; "
            "convert the file, for example with `iconv -f ISO-8859-1 -t UTF-8`"
        ) from error


def _parse(content: str, place: Place) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        cut = "cut short" if error.pos >= len(content.rstrip()) or "Unterminated" in error.msg else "not JSON"
        raise DataInvalid(f"{place}: {cut}: {error.msg} at {where}; write the file again") from error
    except RecursionError as error:
        raise DataInvalid(f"{place}: JSON nested too deeply to be a row") from error


def _json_type(value: Any) -> str:
    return {dict: "object", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
