"""The rules, a table for each kind of dataset. The method's options move their limits and severities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from tasks.recipe.problems import did_you_mean

Severity = Literal["stop", "warn"]


@dataclass(frozen=True)
class Rule:
    """One rule: a fact of every row lies between two limits.

    Attributes:
        name: What the rule is called in options and reports.
        column: The fact (tasks/validate/facts.py); "key" means that keys are unique, "" counts the rows.
        low: Lowest value allowed, or None.
        high: Highest value allowed, or None.
        severity: What a broken rule does.
        reason: Why, for the person who reads that it is broken.
        tolerated: The share of rows that may break it.
    """

    name: str
    column: str
    low: int | None
    high: int | None
    severity: Severity
    reason: str
    tolerated: float = 0.0


class Limits(Protocol):
    """The options that the tables read."""

    @property
    def min_characters(self) -> int: ...  # noqa: D102
    @property
    def max_characters(self) -> int: ...  # noqa: D102
    @property
    def length_share(self) -> float: ...  # noqa: D102
    @property
    def duplicate_share(self) -> float: ...  # noqa: D102
    @property
    def encoding_damage_share(self) -> float: ...  # noqa: D102
    @property
    def leakage_share(self) -> float: ...  # noqa: D102


def _of_every_kind(o: Limits) -> list[Rule]:
    damage = o.encoding_damage_share
    return [
        Rule("has_rows", "", 1, None, "stop", "A dataset without rows trains and shows nothing."),
        Rule("schema", "bad_shape", None, 0, "stop", "A field is missing, of a wrong type, or one too many."),
        Rule("unique_keys", "key", None, None, "stop", "A key must name one row: splits and reports use it."),
        Rule(
            "replacement_characters", "replacement_characters", None, 0, "stop",
            "U+FFFD stands where text was lost in decoding.", damage,
        ),
        Rule("mojibake", "mojibake", None, 0, "stop", "UTF-8 was read as Latin-1 (Ã© for é).", damage),
        Rule(
            "control_characters", "control_characters", None, 0, "stop",
            "Control characters come from binary data or a broken export.", damage,
        ),
        Rule(
            "duplicates", "copies", None, 0, "warn",
            "A row repeats an earlier one word for word; it would count twice.", o.duplicate_share,
        ),
    ]  # fmt: skip


def _length(o: Limits, low: int) -> Rule:
    reason = "Very short rows carry nothing, very long ones are often a failed split of a file."
    return Rule("length", "characters", low, o.max_characters, "warn", reason, o.length_share)


def _documents(o: Limits) -> list[Rule]:
    return [
        *_of_every_kind(o),
        Rule("empty", "blank", None, 0, "stop", "A document has no visible text."),
        _length(o, o.min_characters),
    ]


def _chats(o: Limits) -> list[Rule]:
    return [
        *_of_every_kind(o),
        Rule(
            "role_order", "disorder", None, 0, "stop",
            "Turns must be: system if any, then user and assistant in turn, the assistant last.",
        ),
        Rule("empty", "blank", None, 0, "stop", "A question or system message has no visible text."),
        Rule("empty_answers", "blank_answers", None, 0, "stop", "The model would learn to say nothing."),
        _length(o, 1),
    ]  # fmt: skip


def _pairs(o: Limits) -> list[Rule]:
    return [
        *_of_every_kind(o),
        Rule(
            "role_order", "disorder", None, 0, "stop",
            "A prompt must end with the user, and either answer be one message of the assistant.",
        ),
        Rule("empty", "blank", None, 0, "stop", "A prompt has a message without visible text."),
        Rule("empty_answers", "blank_answers", None, 0, "stop", "An answer has no visible text."),
        Rule("answers_differ", "same_answers", None, 0, "stop", "Chosen equal to rejected teaches nothing."),
        _length(o, 1),
    ]  # fmt: skip


def _exams(o: Limits) -> list[Rule]:
    return [
        *_of_every_kind(o),
        Rule("empty", "blank", None, 0, "stop", "A question has no visible text."),
        Rule("enough_options", "options", 2, None, "stop", "A choice needs at least two options."),
        Rule("empty_options", "blank_options", None, 0, "stop", "An option has no visible text."),
        Rule("options_differ", "same_options", None, 0, "stop", "Two options are the same."),
        Rule("answer_among_options", "answer_outside", None, 0, "stop", "The right answer is no option."),
        _length(o, 1),
        Rule(
            "leakage", "leaked", None, 0, "stop",
            "An exam whose text was trained on measures memory, not ability.", o.leakage_share,
        ),
    ]  # fmt: skip


def _facts(o: Limits) -> list[Rule]:
    return [
        *_of_every_kind(o),
        Rule("empty", "blank", None, 0, "stop", "A prompt has no visible text."),
        Rule("empty_answers", "blank_answers", None, 0, "stop", "An answer or alias has no visible text."),
        _length(o, 1),
    ]


def _questions(o: Limits) -> list[Rule]:
    return [
        *_of_every_kind(o),
        Rule("empty", "blank", None, 0, "stop", "A question has no visible text."),
        Rule("has_answers", "answers", 1, None, "stop", "Without a right answer nothing can be right."),
        Rule("empty_answers", "blank_answers", None, 0, "stop", "An answer has no visible text."),
        _length(o, 1),
    ]


def _programs(o: Limits) -> list[Rule]:
    return [
        *_of_every_kind(o),
        Rule("empty", "blank", None, 0, "stop", "A prompt has no visible text."),
        Rule("empty_tests", "blank_tests", None, 0, "stop", "Without tests every program passes."),
        Rule("tests_are_python", "broken_tests", None, 0, "stop", "No program can pass broken tests."),
        _length(o, 1),
    ]


def _prompts(o: Limits) -> list[Rule]:
    return [
        *_of_every_kind(o),
        Rule("empty", "blank", None, 0, "stop", "A prompt has no visible text."),
        _length(o, 1),
    ]


_TABLES = {
    "documents": _documents,
    "chats": _chats,
    "pairs": _pairs,
    "exams": _exams,
    "facts": _facts,
    "questions": _questions,
    "programs": _programs,
    "requests": _prompts,
    "prompts": _prompts,
}

NAMES: tuple[str, ...] = (
    "has_rows", "schema", "unique_keys", "replacement_characters", "mojibake", "control_characters",
    "duplicates", "empty", "length", "role_order", "empty_answers", "answers_differ",
    "enough_options", "empty_options", "options_differ", "answer_among_options", "leakage",
    "has_answers", "empty_tests", "tests_are_python",
)  # fmt: skip
"""Every rule's name. In the options a name means the rule in every kind that has it."""


def unknown_names(names: Sequence[str]) -> str:
    """What is wrong with a list of rule names, with a remedy; "" if nothing is."""
    return "; ".join(f"no rule '{name}': {did_you_mean(name, NAMES)}" for name in names if name not in NAMES)


def rules_for(
    kind: str, limits: Limits, *, warn: Sequence[str], stop: Sequence[str], skip: Sequence[str]
) -> list[Rule]:
    """The rules for a kind, with the severities that the recipe chose."""
    chosen: dict[str, Any] = {**dict.fromkeys(warn, "warn"), **dict.fromkeys(stop, "stop")}
    rules = [rule for rule in _TABLES[kind](limits) if rule.name not in skip]
    return [replace(rule, severity=chosen.get(rule.name, rule.severity)) for rule in rules]
