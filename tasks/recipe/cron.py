"""The syntax of cron: five fields of numbers, names, ranges, lists and steps."""

from __future__ import annotations

import re

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 7, DAYS),
)
"""Name, least and greatest number, and names; names count from the least number."""


def cron_error(text: str) -> str | None:
    """What is wrong with a cron expression, or None."""
    fields = text.split()
    if len(fields) != len(FIELDS):
        return f"cron needs 5 fields (minute hour day month weekday), '{text}' has {len(fields)}"
    for field, (name, least, greatest, names) in zip(fields, FIELDS, strict=True):
        for part in field.split(","):
            error = _part_error(part, least, greatest, names)
            if error:
                return f"{name} '{field}': {error}"
    return None


def _part_error(part: str, least: int, greatest: int, names: tuple[str, ...]) -> str | None:
    span, slash, step = part.partition("/")
    if slash and not re.fullmatch(r"0*[1-9][0-9]{0,2}", step):
        return f"'/{step}' is no step; write a number above 0 after '/'"
    if span == "*":
        return None
    if span == "":
        return "there is nothing between the commas"
    numbers: list[int] = []
    for word in span.split("-"):
        if word.lower() in names:
            numbers.append(least + names.index(word.lower()))
        elif re.fullmatch(r"[0-9]{1,2}", word) and least <= int(word) <= greatest:
            numbers.append(int(word))
        else:
            return f"'{word}' is not a number from {least} to {greatest}" + (
                f" or one of {', '.join(names)}" if names else ""
            )
    if len(numbers) > 2 or (len(numbers) == 2 and numbers[0] > numbers[1]):
        return f"'{span}' is no range from a lower to a higher number"
    return None
