"""Read evaluation sets, each a `rows.jsonl`. Every row may name the slice that it belongs to (`group`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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


@dataclass(frozen=True)
class Fact:
    """The beginning of a sentence and what completes it truly; the first of `right` is its main answer."""

    key: str
    prompt: str
    right: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class Question:
    """A question to answer from memory; any of the answers is right."""

    key: str
    question: str
    answers: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class Program:
    """The beginning of a program, and the tests; with an entry point they define `check(candidate)`."""

    key: str
    prompt: str
    tests: str
    entry_point: str
    group: str = ""


@dataclass(frozen=True)
class Request:
    """What a user asks for, and whether it should be refused."""

    key: str
    prompt: str
    refuse: bool
    group: str = ""


@dataclass(frozen=True)
class Beginning:
    """The beginning of a text that is continued."""

    key: str
    prompt: str
    group: str = ""


def read_facts(item: Input, limit: int | None) -> list[Fact]:
    """The first `limit` facts of a set; one without a group has its relation as one.

    Raises:
        DataInvalid: If the set is empty or a row is not {"key", "prompt", "answer", "aliases"?, "relation"?}.
    """

    def fact(where: str, row: dict[str, Any]) -> Fact:
        right = (_text(where, row, "answer"), *_texts(where, row, "aliases", least=0))
        group = group_of(row, where) or _text(where, row, "relation", may_lack=True)
        return Fact(str(row.get("key")), _text(where, row, "prompt"), right, group)

    return _read(item, limit, fact)


def read_questions(item: Input, limit: int | None) -> list[Question]:
    """The first `limit` questions of a set.

    Raises:
        DataInvalid: If the set is empty or a row is not {"key", "question", "answers": [one or more]}.
    """
    return _read(
        item,
        limit,
        lambda where, row: Question(
            str(row.get("key")),
            _text(where, row, "question"),
            _texts(where, row, "answers", least=1),
            group_of(row, where),
        ),
    )


def read_programs(item: Input, limit: int | None) -> list[Program]:
    """The first `limit` programs of a set.

    Raises:
        DataInvalid: If the set is empty or a row is not {"key", "prompt", "tests", "entry_point"?}, or its
            entry point is no name of a function.
    """

    def program(where: str, row: dict[str, Any]) -> Program:
        name = _text(where, row, "entry_point", may_lack=True)
        if name and not name.isidentifier():
            raise DataInvalid(f"{where}: entry_point {name!r} is no name of a function")
        return Program(
            str(row.get("key")),
            _text(where, row, "prompt"),
            _text(where, row, "tests"),
            name,
            group_of(row, where),
        )

    return _read(item, limit, program)


def read_requests(item: Input, limit: int | None) -> list[Request]:
    """The first `limit` requests of a set.

    Raises:
        DataInvalid: If the set is empty or a row is not {"key", "prompt", "refuse": true or false}.
    """

    def request(where: str, row: dict[str, Any]) -> Request:
        refuse = row.get("refuse")
        if not isinstance(refuse, bool):
            raise DataInvalid(f"{where}: refuse {refuse!r} is not true or false")
        return Request(str(row.get("key")), _text(where, row, "prompt"), refuse, group_of(row, where))

    return _read(item, limit, request)


def read_prompts(item: Input, limit: int | None) -> list[Beginning]:
    """The first `limit` prompts of a set.

    Raises:
        DataInvalid: If the set is empty or a row is not {"key", "prompt"}.
    """
    return _read(
        item,
        limit,
        lambda where, row: Beginning(str(row.get("key")), _text(where, row, "prompt"), group_of(row, where)),
    )


T = TypeVar("T")


def _read(item: Input, limit: int | None, parse: Callable[[str, dict[str, Any]], T]) -> list[T]:
    found = []
    for number, row in read_lines(item.path / "rows.jsonl", f"set '{item.ref}'"):
        found.append(parse(f"set '{item.ref}': line {number} (key {row.get('key')!r})", row))
        if len(found) == limit:
            break
    if not found:
        raise DataInvalid(f"set '{item.ref}' is empty: nothing can be measured on it")
    return found


def _text(where: str, row: dict[str, Any], field: str, may_lack: bool = False) -> str:
    value = row.get(field, "" if may_lack else None)
    if not isinstance(value, str) or not (value.strip() or may_lack):
        raise DataInvalid(f"{where} has no {field} with visible text")
    return value


def _texts(where: str, row: dict[str, Any], field: str, least: int) -> tuple[str, ...]:
    values = row.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise DataInvalid(f"{where}: {field} is not a list of texts, each with visible text")
    if len(values) < least:
        raise DataInvalid(f"{where} has no {field}")
    return tuple(values)
