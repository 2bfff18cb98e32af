"""Retrieval by position: is a sentence found again in a long text, wherever it stands.

Kamradt 2023, "Needle in a haystack"; Liu et al. 2023, "Lost in the middle" (arXiv:2307.03172): a sentence
is put at several depths of texts of several lengths, and asked for at the end. Differently from them
nothing is generated: right is a model that finds the needle's value likelier than nine others of the same
form, so that base models of any size can be measured and chance is a tenth. Lengths are in characters, so
that every model gets the same texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy

from tasks.evaluate.measure import Array, Columns, Comparison, Figure, Measure, flips, ratio
from tasks.evaluate.multiple_choice import score_exams
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Document, Exam, read_documents
from tasks.evaluate.scoring import Subject
from tasks.recipe.failures import ConfigInvalid

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the needle stands, as a share of the text."""
LENGTHS = (0.25, 0.5, 1.0)
"""Lengths of the texts, as shares of the option haystack_characters."""
LENGTH_NAMES = ("short", "medium", "long")
VALUES = 10
"""The needle's value and its rivals."""
NAMES = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbour", "island", "juniper")
"""What the needle is about."""


def haystack(texts: Sequence[str], start: int, characters: int) -> str:
    """Text of the wanted length from text `start` on, going on with the next ones, cut behind a word.

    Raises:
        ConfigInvalid: If all texts together are shorter.
    """
    parts: list[str] = []
    for step in range(len(texts)):
        parts.append(texts[(start + step) % len(texts)])
        if sum(map(len, parts)) + len(parts) > characters:
            cut = " ".join(parts)[:characters]
            return cut[: cut.rfind(" ")] if " " in cut else cut
    raise ConfigInvalid(
        f"the documents have {sum(map(len, parts))} characters together, less than the {characters} of "
        "options.haystack_characters: lower it, or give more documents"
    )


def question(text: str, depth: float, name: str, values: Sequence[str], key: str, gold: int) -> Exam:
    """The text with the needle behind the word nearest to the depth, and the needle's beginning again."""
    words = text.split(" ")
    at = round(depth * len(words))
    needle = f"The code of {name} is {values[gold]}."
    whole = " ".join([*words[:at], needle, *words[at:]])
    return Exam(key, f"{whole} The code of {name} is", tuple(values), gold)


def score(
    subject: Subject,
    rows: Sequence[Document],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """The column right, (N, lengths times depths), and a column for each length and depth and their mean."""
    texts = [row.text for row in rows]
    exams = []
    for start, row in enumerate(rows):
        for share in LENGTHS:
            text = haystack(texts, start, round(share * options.haystack_characters))
            for depth in DEPTHS:
                key = f"{row.key}/{share}/{depth}"
                draw = random.Random(f"{seed}/{key}")
                values = [str(value) for value in draw.sample(range(10_000, 100_000), VALUES)]
                exams.append(question(text, depth, draw.choice(NAMES), values, key, draw.randrange(VALUES)))
    longest = max(len(subject.encode(f"{each.question} {each.options[0]}")) for each in exams)
    if len(subject.prefix) + longest > subject.window:
        raise ConfigInvalid(
            f"options.haystack_characters {options.haystack_characters} gives texts of {longest} tokens, "
            f"more than the {subject.window} of model '{subject.ref}': lower it, or raise max_length where "
            "the model allows it"
        )
    scores, _ = score_exams(subject, exams, "{question}", options.batch_size, progress, options.batch_tokens)
    right_NLD = numpy.array(
        [float(each.choice == exam.answer) for each, exam in zip(scores, exams, strict=True)]
    ).reshape(len(rows), len(LENGTHS), len(DEPTHS))
    columns: dict[str, Array] = {
        "right": right_NLD.reshape(len(rows), -1),
        "found": right_NLD.mean(axis=(1, 2)),
        "everywhere": right_NLD.min(axis=(1, 2)),
    }
    columns |= {name: right_NLD[:, at].mean(axis=1) for at, name in enumerate(LENGTH_NAMES)}
    return columns | {_at(depth): right_NLD[:, :, at].mean(axis=1) for at, depth in enumerate(DEPTHS)}


def _at(depth: float) -> str:
    return f"at_{depth:.0%}".removesuffix("%")


def _worst(columns: Columns, weights_RN: Array) -> Array:
    """The lowest share over all lengths and depths."""
    with numpy.errstate(divide="ignore", invalid="ignore"):
        shares_RC = (weights_RN @ columns["right"]) / weights_RN.sum(axis=1)[:, None]
    worst_R: Array = shares_RC.min(axis=1)
    return worst_R


def _shown(row: Document) -> Mapping[str, str]:
    return {"text": row.text}


MEASURE = Measure(
    name="retrieval",
    version=1,
    settings=("haystack_characters",),
    read=read_documents,
    score=score,
    figures=(
        Figure("found", "higher", "", "needles found again", ratio("found")),
        Figure("worst", "higher", "", "found at the worst length and depth", _worst),
        *(
            Figure(name, "higher", "", f"found in {name} texts ({share:.0%} of the length)", ratio(name))
            for name, share in zip(LENGTH_NAMES, LENGTHS, strict=True)
        ),
        *(Figure(_at(d), "higher", "", f"found at {d:.0%} of the text", ratio(_at(d))) for d in DEPTHS),
    ),
    comparisons=(
        Comparison(
            "negative_flips",
            "lower",
            "",
            "texts with every needle found before, not now",
            flips("everywhere", True),
        ),
    ),
    shown=_shown,
    doc="a sentence found again in a long text, by its position",
    paper="Liu et al. 2023, Lost in the middle, arXiv:2307.03172; Kamradt 2023, Needle in a haystack",
)
