"""The shapes of dataset rows, one pydantic model a kind, and how a bad row is described."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Row(BaseModel):
    """What every row has: nothing beyond its declared fields, and no value of another type.

    Fields with a default may be left out. `group` is the slice that a row belongs to in an evaluation.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    key: str = Field(min_length=1)
    group: str = ""


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Document(Row):
    """Plain text, as pretraining reads it."""

    text: str


class Chat(Row):
    """A conversation, as supervised fine-tuning reads it."""

    messages: list[Message] = Field(min_length=1)


class Pair(Row):
    """A prompt with the answer that is preferred and the one that is not."""

    prompt: list[Message] = Field(min_length=1)
    chosen: list[Message] = Field(min_length=1)
    rejected: list[Message] = Field(min_length=1)


class Exam(Row):
    """A multiple-choice question; `answer` is the index of the right option, counted from 0."""

    question: str
    options: list[str] = Field(min_length=2)
    answer: int = Field(ge=0)

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> Exam:
        if self.answer >= len(self.options):
            raise ValueError(
                f"answer {self.answer} is beyond the {len(self.options)} options (0 is the first)"
            )
        return self


class Fact(Row):
    """The beginning of a sentence and the words that complete it truly; `aliases` are as right."""

    prompt: str
    answer: str
    aliases: list[str] = []
    relation: str = ""


class Question(Row):
    """A question that is answered from memory; any of the answers is right."""

    question: str
    answers: list[str] = Field(min_length=1)


class Program(Row):
    """The beginning of a Python program and the tests that the whole has to pass.

    With an `entry_point` the tests define `check(candidate)`, which is called with the function of that name.
    """

    prompt: str
    tests: str
    entry_point: str = ""


class Request(Row):
    """What a user asks for, and whether a model should refuse it."""

    prompt: str
    refuse: bool


class Prompt(Row):
    """The beginning of a text that a model continues."""

    prompt: str


ROWS: dict[str, type[Row]] = {
    "documents": Document,
    "chats": Chat,
    "pairs": Pair,
    "exams": Exam,
    "facts": Fact,
    "questions": Question,
    "programs": Program,
    "requests": Request,
    "prompts": Prompt,
}


def fields_of(kind: str) -> list[str]:
    """The field names of a kind's rows, `key` included."""
    return list(ROWS[kind].model_fields)


def may_lack(kind: str, field: str) -> bool:
    """Whether a row of the kind may be without the field."""
    return not ROWS[kind].model_fields[field].is_required()


def trouble_with(kind: str, row: dict[str, Any]) -> str:
    """What is wrong with a row's shape, in words; "" if nothing is. Never quotes the row's text."""
    try:
        ROWS[kind].model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            return f"field '{where}' is missing"
        return f"field '{where}': {first['msg']}" if where else str(first["msg"])
    return ""


def texts_of(kind: str, row: dict[str, Any]) -> list[str]:
    """Every text of a row that a model may read, in order; the row must have its kind's shape."""
    return _TEXTS[kind](row)


def _contents(row: dict[str, Any], *parts: str) -> list[str]:
    return [message["content"] for part in parts for message in row[part]]


_TEXTS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "documents": lambda row: [row["text"]],
    "chats": lambda row: _contents(row, "messages"),
    "pairs": lambda row: _contents(row, "prompt", "chosen", "rejected"),
    "exams": lambda row: [row["question"], *row["options"]],
    "facts": lambda row: [row["prompt"], row["answer"], *row.get("aliases", [])],
    "questions": lambda row: [row["question"], *row["answers"]],
    "programs": lambda row: [row["prompt"], row["tests"]],
    "requests": lambda row: [row["prompt"]],
    "prompts": lambda row: [row["prompt"]],
}
