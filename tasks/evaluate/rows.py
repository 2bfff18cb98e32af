"""Read evaluation sets, each a `rows.jsonl`. Every row may name the slice that it belongs to (`group`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.recipe.failures import DataInvalid
from tasks.stage import Input


@dataclass(frozen=True)
class Document:
    """One document of a bits-per-byte set."""

    key: str
    text: str
    group: str = ""


@dataclass(frozen=True)
class Exam:
    """One multiple-choice question; `answer` is the index of the right option."""

    key: str
    question: str
    options: tuple[str, ...]
    answer: int
    group: str = ""


def read_lines(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file with their line numbers.

    Raises:
        DataInvalid: If a line is not UTF-8 or not a JSON object; names the file and the line.
    """
    if not path.is_file():
        raise DataInvalid(f"{what}: has no {path.name}")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:  # JSON and UTF-8 errors alike
            raise DataInvalid(f"{what}: {path.name} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataInvalid(f"{what}: {path.name} line {number} is not a JSON object")
        yield number, row


def group_of(row: Mapping[str, Any], where: str) -> str:
    """The slice that a row belongs to, "" for none; DataInvalid where it is no text."""
    group = row.get("group", "")
    if not isinstance(group, str):
        raise DataInvalid(f"{where}: group {group!r} is no text; write the name of a slice, or leave it out")
    return group


def read_documents(item: Input, limit: int | None) -> list[Document]:
    """The first `limit` documents of a set.

    Raises:
        DataInvalid: If the set is empty or a row is not {"key": str, "text": non-empty str}.
    """
    documents = []
    for number, row in read_lines(item.path / "rows.jsonl", f"set '{item.ref}'"):
        text = row.get("text")
        if not isinstance(text, str) or not text:
            raise DataInvalid(f"set '{item.ref}': line {number} (key {row.get('key')!r}) has no text")
        documents.append(
            Document(str(row.get("key")), text, group_of(row, f"set '{item.ref}': line {number}"))
        )
        if len(documents) == limit:
            break
    if not documents:
        raise DataInvalid(f"set '{item.ref}' is empty: nothing can be measured on it")
    return documents


def read_exams(item: Input, limit: int | None) -> list[Exam]:
    """The first `limit` questions of a set.

    Raises:
        DataInvalid: If the set is empty, a row is not {"key", "question", "options", "answer"}, it has fewer
            than two options or an empty one, or the answer is not the index of an option.
    """
    exams = []
    for number, row in read_lines(item.path / "rows.jsonl", f"set '{item.ref}'"):
        where = f"set '{item.ref}': line {number} (key {row.get('key')!r})"
        question, options, answer = row.get("question"), row.get("options"), row.get("answer")
        if not isinstance(question, str) or not question:
            raise DataInvalid(f"{where} has no question")
        if not isinstance(options, list) or len(options) < 2:
            raise DataInvalid(f"{where} needs two or more options")
        if not all(isinstance(option, str) and option for option in options):
            raise DataInvalid(f"{where} has an option that is empty or not text")
        if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(options):
            raise DataInvalid(f"{where}: answer {answer!r} is not the index of one of {len(options)} options")
        exams.append(Exam(str(row.get("key")), question, tuple(options), answer, group_of(row, where)))
        if len(exams) == limit:
            break
    if not exams:
        raise DataInvalid(f"set '{item.ref}' is empty: nothing can be measured on it")
    return exams
