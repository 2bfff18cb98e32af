"""Reads the documents of a dataset artefact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tasks.recipe.failures import DataInvalid


def read_documents(directory: Path) -> Iterator[tuple[str, str]]:
    """The (key, text) of every row of `rows.jsonl`.

    Raises:
        DataInvalid: The file is missing, is not UTF-8, or a line is not a document; names file and line.
    """
    path = directory / "rows.jsonl"
    if not path.is_file():
        raise DataInvalid(f"{path}: missing; a documents artefact is one file rows.jsonl")
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                row = json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataInvalid(f"{path}, line {number}: not UTF-8: {error.reason}") from error
            except json.JSONDecodeError as error:
                raise DataInvalid(f"{path}, line {number}: not JSON (cut short?): {error.msg}") from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise DataInvalid(f"{path}, line {number}: needs a string 'text'")
            yield str(row.get("key", number)), row["text"]
