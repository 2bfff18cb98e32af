"""What the rules look at: for every row its key and a few numbers, never its text.

The numbers are counts of what is wrong (0 is good), lengths, or None where the row's shape does not let one
tell; a rule passes over None, the rule `schema` does not.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from tasks.recipe.failures import DataInvalid

Row = dict[str, Any]
Facts = dict[str, int | None]

_SHAPES: dict[str, Mapping[str, str]] = {
    "documents": {"text": "text"},
    "chats": {"messages": "messages"},
    "pairs": {"prompt": "messages", "chosen": "messages", "rejected": "messages"},
    "exams": {"question": "text", "options": "texts", "answer": "whole number"},
    "facts": {"prompt": "text", "answer": "text"},
    "questions": {"question": "text", "answers": "texts"},
    "programs": {"prompt": "text", "tests": "text"},
    "requests": {"prompt": "text", "refuse": "yes or no"},
    "prompts": {"prompt": "text"},
}
"""The fields that a row of each kind has beside its key, and what they hold."""
_MORE: dict[str, Mapping[str, str]] = {
    "facts": {"aliases": "texts", "relation": "text"},
    "programs": {"entry_point": "text"},
}
"""The fields that it may have, beside `group`."""
_ROLES = frozenset({"system", "user", "assistant"})

_MOJIBAKE = re.compile(
    "\u00c3[\u0080-\u00bf\u0152-\u0178\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"  # é as Ã©
    "|\u00c2[\u00a0-\u00bf]"  # ° as Â°
    "|\u00e2\u20ac[\u0080-\u00bf\u0152-\u0178\u02dc\u2013-\u203a\u20ac\u2122]"  # a quotation mark as â€œ
    "|\u00e2\u0080[\u0080-\u00bf]"  # the same, read as Latin-1
    "|\u00ef\u00bb\u00bf|\u00ef\u00bf\u00bd"  # a byte order mark, a replacement character
    "|\u00f0[\u0178\u009f]"  # an emoji as ðŸ
)
"""UTF-8 that somebody read as Latin-1 or Windows-1252."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters but tab, the ends of lines and form feed."""

COLUMNS = ("bad_shape", "characters", "replacement_characters", "mojibake", "control_characters", "copies")
"""The facts of every kind; `facts_of` adds those of one kind."""


def read_rows(path: Path, name: str) -> Iterator[Any]:
    """The values of a dataset's rows.jsonl.

    Raises:
        DataInvalid: The file is missing or a line is no JSON in UTF-8; names dataset and line.
    """
    if not path.is_file():
        raise DataInvalid(f"dataset '{name}' has no file {path.name}; materialise it again")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield json.loads(line.decode())
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                reason = str(error).partition(":")[0]
                raise DataInvalid(
                    f"dataset '{name}', {path.name}:{number}: not a JSON object in UTF-8 ({reason})"
                ) from error


def texts_of(kind: str, row: Row) -> list[str]:
    """Every text of a well-shaped row, in order."""
    return _TEXTS[kind](row)


def has_shape(row: Any, kind: str) -> TypeGuard[Row]:
    """Whether a value has exactly its kind's fields, of their types."""
    needed = {"key": "text", **_SHAPES[kind]}
    known = {**needed, "group": "text", **_MORE.get(kind, {})}
    if not isinstance(row, dict) or not needed.keys() <= row.keys() <= known.keys():
        return False
    return all(_HOLDS[known[field]](value) for field, value in row.items())


class Collector:
    """Turns the rows of one dataset into facts, remembering what it has seen."""

    def __init__(self, kind: str) -> None:
        """Begin a dataset of `kind`."""
        self.kind = kind
        self._seen: set[bytes] = set()

    def facts_of(self, row: Any) -> tuple[str | None, Facts]:
        """A row's key (None where it has none) and its facts."""
        key = row.get("key") if isinstance(row, dict) else None
        key = key if isinstance(key, str) else None
        if not has_shape(row, self.kind):
            return key, {**dict.fromkeys((*COLUMNS, *OWN_COLUMNS[self.kind])), "bad_shape": 1}
        texts = texts_of(self.kind, row)
        content = json.dumps([row[field] for field in sorted(_SHAPES[self.kind])])
        digest = hashlib.sha256(content.encode()).digest()
        copies = int(digest in self._seen)
        self._seen.add(digest)
        return key, {
            "bad_shape": 0,
            "characters": sum(len(text) for text in texts),
            "replacement_characters": sum(text.count("\ufffd") for text in texts),
            "mojibake": sum(len(_MOJIBAKE.findall(text)) for text in texts),
            "control_characters": sum(len(_CONTROL.findall(text)) for text in texts),
            "copies": copies,
            **_OWN_FACTS[self.kind](row),
        }


def _documents(row: Row) -> Facts:
    return {"blank": int(not row["text"].strip())}


def _chats(row: Row) -> Facts:
    answers, others = _split_by_role(row["messages"])
    return {
        "disorder": int(not _in_order(row["messages"], last="assistant")),
        "blank": _blanks(others),
        "blank_answers": _blanks(answers),
    }


def _pairs(row: Row) -> Facts:
    answers = [*row["chosen"], *row["rejected"]]
    single = all([m["role"] for m in row[side]] == ["assistant"] for side in ("chosen", "rejected"))
    return {
        "disorder": int(not (_in_order(row["prompt"], last="user") and single)),
        "blank": _blanks([message["content"] for message in row["prompt"]]),
        "blank_answers": _blanks([message["content"] for message in answers]),
        "same_answers": int(_contents(row["chosen"]) == _contents(row["rejected"])),
    }


def _exams(row: Row) -> Facts:
    options = [option.strip() for option in row["options"]]
    return {
        "blank": int(not row["question"].strip()),
        "options": len(options),
        "blank_options": _blanks(options),
        "same_options": len(options) - len(set(options)),
        "answer_outside": int(not 0 <= row["answer"] < len(options)),
    }


def _facts(row: Row) -> Facts:
    answers = [row["answer"], *row.get("aliases", [])]
    return {"blank": int(not row["prompt"].strip()), "blank_answers": _blanks(answers)}


def _questions(row: Row) -> Facts:
    answers = row["answers"]
    return {
        "blank": int(not row["question"].strip()),
        "answers": len(answers),
        "blank_answers": _blanks(answers),
    }


def _programs(row: Row) -> Facts:
    return {
        "blank": int(not row["prompt"].strip()),
        "blank_tests": int(not row["tests"].strip()),
        "broken_tests": int(not _is_python(row["tests"])),
    }


_OWN_FACTS: dict[str, Callable[[Row], Facts]] = {
    "documents": _documents,
    "chats": _chats,
    "pairs": _pairs,
    "exams": _exams,
    "facts": _facts,
    "questions": _questions,
    "programs": _programs,
    "requests": lambda row: {"blank": int(not row["prompt"].strip())},
    "prompts": lambda row: {"blank": int(not row["prompt"].strip())},
}
OWN_COLUMNS: dict[str, tuple[str, ...]] = {
    "documents": ("blank",),
    "chats": ("disorder", "blank", "blank_answers"),
    "pairs": ("disorder", "blank", "blank_answers", "same_answers"),
    "exams": ("blank", "options", "blank_options", "same_options", "answer_outside"),
    "facts": ("blank", "blank_answers"),
    "questions": ("blank", "answers", "blank_answers"),
    "programs": ("blank", "blank_tests", "broken_tests"),
    "requests": ("blank",),
    "prompts": ("blank",),
}
"""The facts of one kind, beside `COLUMNS`."""
_TEXTS: dict[str, Callable[[Row], list[str]]] = {
    "documents": lambda row: [row["text"]],
    "chats": lambda row: _contents(row["messages"]),
    "pairs": lambda row: [*_contents(row["prompt"]), *_contents(row["chosen"]), *_contents(row["rejected"])],
    "exams": lambda row: [row["question"], *row["options"]],
    "facts": lambda row: [row["prompt"], row["answer"], *row.get("aliases", [])],
    "questions": lambda row: [row["question"], *row["answers"]],
    "programs": lambda row: [row["prompt"], row["tests"]],
    "requests": lambda row: [row["prompt"]],
    "prompts": lambda row: [row["prompt"]],
}


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and message.keys() == {"role", "content"}
            and isinstance(message["content"], str)
            and message["role"] in _ROLES
            for message in value
        )
    )


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):  # ValueError: a null character
        return False
    return True


_HOLDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "texts": _are_texts,
    "messages": _are_messages,
    "whole number": _is_whole_number,
    "yes or no": lambda value: isinstance(value, bool),
}


def _contents(messages: list[dict[str, str]]) -> list[str]:
    return [message["content"] for message in messages]


def _split_by_role(messages: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """The contents of the assistant's messages, and of the others."""
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    return answers, [message["content"] for message in messages if message["role"] != "assistant"]


def _in_order(messages: list[dict[str, str]], *, last: str) -> bool:
    """Whether at most one system message comes first, then user and assistant in turn, `last` at the end."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    alternate = all(role == ("user", "assistant")[i % 2] for i, role in enumerate(turns))
    return bool(turns) and alternate and turns[-1] == last


def _blanks(texts: list[str]) -> int:
    return sum(not text.strip() for text in texts)
