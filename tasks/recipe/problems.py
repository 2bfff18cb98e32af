"""What is wrong with a recipe: where, what, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: The recipe's path, or `--set` for an override.
        line: 1-based; for an override, which one it is.
        column: 1-based.
        key: The dotted key, e.g. `steps.adapted.options.lr`, or "" for the whole file.
        message: What is wrong.
        remedy: What to do.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    remedy: str


def format_problems(problems: Iterable[Problem]) -> str:
    """Two lines a problem: `file:line:column: key: message`, then the remedy, indented."""
    return "\n".join(
        f"{each.file}:{each.line}:{each.column}: {each.key + ': ' if each.key else ''}{each.message}"
        f"\n    {each.remedy}"
        for each in problems
    )


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A remedy for an unknown word: the nearest known one, else the list of all.

    Args:
        word: What was written.
        known: What could have been written.
        otherwise: The remedy where nothing at all is known.
    """
    choices = [str(each) for each in known]
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if choices:
        return f"choose one of: {', '.join(choices)}"
    return otherwise or "remove it"


def dotted(path: Sequence[str | int]) -> str:
    """A path as one key: `("steps", "a", "inputs", "models", 1)` is `steps.a.inputs.models[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
