"""What a model prefers of two answers, by their likelihood; no reference model, no generation.

Shapes: P pairs, 2 answers of a pair (chosen, rejected).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from tasks.evaluate.measure import Array
from tasks.evaluate.probes.models import Progress
from tasks.evaluate.rows import read_lines
from tasks.evaluate.scoring import Row, Subject, log_probs
from tasks.recipe.failures import DataInvalid
from tasks.stage import Input
from tasks.training.render import Rendered, render, require_template


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with a better and a worse answer, as messages."""

    key: str
    prompt: list[dict[str, Any]]
    chosen: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def read_pairs(item: Input, limit: int) -> list[PreferencePair]:
    """The first `limit` pairs of a set.

    Raises:
        DataInvalid: The set is empty, or a row is not {"key", "prompt", "chosen", "rejected"}.
    """
    pairs = []
    for number, row in read_lines(item.path / "rows.jsonl", f"set '{item.ref}'"):
        parts = [row.get(name) for name in ("prompt", "chosen", "rejected")]
        if not all(isinstance(part, list) and part for part in parts):
            raise DataInvalid(
                f"set '{item.ref}': line {number} (key {row.get('key')!r}) needs messages in prompt, chosen "
                "and rejected"
            )
        pairs.append(PreferencePair(str(row.get("key")), row["prompt"], row["chosen"], row["rejected"]))
        if len(pairs) == limit:
            break
    if not pairs:
        raise DataInvalid(f"set '{item.ref}' is empty: nothing can be measured on it")
    return pairs


@dataclass(frozen=True)
class Answers:
    """The rendered answers of pairs.

    Attributes:
        rows: Chosen and rejected answers in turn, of the pairs that fit.
        fits_P: Whether a pair fits into the model's window.
    """

    rows: list[Rendered]
    fits_P: Array

    def spread(self, values_F: Array) -> Array:
        """Numbers of the pairs that fit, as numbers of all pairs; NaN where a pair does not fit."""
        found_P = numpy.full(len(self.fits_P), numpy.nan)
        found_P[self.fits_P == 1] = values_F
        return found_P


def render_answers(subject: Subject, pairs: Sequence[PreferencePair], step: str) -> Answers:
    """Both answers of every pair with the model's template; a pair longer than its window is left out.

    A cut answer would be judged by its first half, so nothing is cut.

    Raises:
        ConfigInvalid: The model has no chat template.
        DataInvalid: A pair cannot be rendered, or none fits.
    """
    require_template(subject.tokenizer, f"step '{step}', model '{subject.ref}'")
    rows: list[Rendered] = []
    fits = []
    for pair in pairs:
        both = [
            render(subject.tokenizer, [*pair.prompt, *answer], f"{pair.key} ({side})", len(pair.prompt))
            for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
        ]
        fits.append(float(max(len(row.input_ids) for row in both) <= subject.window))
        rows += both if fits[-1] else []
    if not rows:
        raise DataInvalid(
            f"none of {len(pairs)} pairs fits into the {subject.window} tokens that model '{subject.ref}' is "
            "given; raise max_length"
        )
    return Answers(rows, numpy.array(fits))


def supervised(row: Rendered) -> list[int]:
    """Positions of the answer's tokens, those that something comes before."""
    return [position for position, inside in enumerate(row.mask) if inside and position > 0]


def likelihoods(subject: Subject, answers: Sequence[Rendered], batch_size: int, progress: Progress) -> Array:
    """Mean log-probability of each answer's tokens, nats a token, shape (P, 2)."""
    rows = []
    for answer in answers:
        at = supervised(answer)
        rows.append(Row(answer.input_ids, at, [position - 1 for position in at]))
    means = [float(scores.mean()) for scores in log_probs(subject, rows, batch_size, progress)]
    return numpy.array(means).reshape(-1, 2)


def prefers_chosen(means_P2: Array) -> Array:
    """1 where the chosen answer is the likelier, 0.5 where both are equal, 0 else; shape (P,)."""
    ahead_P: Array = (means_P2[:, 0] > means_P2[:, 1]) + 0.5 * (means_P2[:, 0] == means_P2[:, 1])
    return ahead_P
