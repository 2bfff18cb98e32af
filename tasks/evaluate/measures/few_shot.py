"""Few-shot ability: accuracy with more and more solved examples before the question.

Brown et al. 2020, "Language models are few-shot learners" (arXiv:2005.14165), section 2.4. Examples come from
the set itself, without the question that they precede; each question has its own, drawn from the seed and the
question's key, and those of fewer shots are the last of those of more. Differently from the paper, examples
that do not fit into the model's window lose their first tokens, so that the curve ends where the window does.
A model may keep its perplexity and lose this: it is the forgetting that bits per byte do not show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy

from tasks.evaluate.measure import Columns, Figure, Measure, ratio
from tasks.evaluate.multiple_choice import Asked, asked, choose, score_options
from tasks.evaluate.options import SHOTS, SuiteOptions
from tasks.evaluate.rows import Exam, read_exams
from tasks.evaluate.scoring import Subject
from tasks.recipe.failures import DataInvalid

BETWEEN = "\n\n"
"""What separates examples, and the last of them from the question."""


def score(
    subject: Subject,
    rows: Sequence[Exam],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """Whether the choice is right at each number of shots, `right_at_<k>`; their mean height, `shots_area`.

    Raises:
        DataInvalid: If the set has no more questions than the largest number of examples.
    """
    if len(rows) <= options.shots[-1]:
        raise DataInvalid(
            f"{options.shots[-1]} examples cannot be drawn from a set of {len(rows)} questions without the "
            f"question itself; lower options.shots or give more questions"
        )
    columns = {}
    for number, shots in enumerate(options.shots):

        def part(done: float, number: int = number) -> None:
            progress((number + done) / len(options.shots))

        questions = [
            with_examples(rows, place, shots, options.exam_prompt, seed) for place in range(len(rows))
        ]
        found, _ = score_options(subject, questions, options.batch_size, part, options.batch_tokens)
        columns[f"right_at_{shots}"] = numpy.array(
            [
                float(choose(values, row.options) == row.answer)
                for values, row in zip(found, rows, strict=True)
            ]
        )
    heights_KN = numpy.stack([columns[f"right_at_{shots}"] for shots in options.shots])
    steps_K = numpy.diff(options.shots)
    area_N = ((heights_KN[1:] + heights_KN[:-1]) / 2 * steps_K[:, None]).sum(axis=0)
    return {**columns, "shots_area": area_N / steps_K.sum()}


def with_examples(rows: Sequence[Exam], place: int, shots: int, prompt: str, seed: int) -> Asked:
    """The question at `place` behind `shots` other questions with their answers."""
    question = asked(rows[place], prompt)
    salt = int.from_bytes(hashlib.sha256(rows[place].key.encode()).digest()[:8], "little")
    drawn = numpy.random.default_rng([seed, salt]).permutation(len(rows) - 1)[:shots]
    examples = []
    for index in drawn[::-1]:
        other = rows[index + (index >= place)]
        examples.append(f"{asked(other, prompt).context} {other.options[other.answer]}{BETWEEN}")
    return Asked(question.key, "".join(examples) + question.context, question.options)


def shown(row: Exam) -> Mapping[str, str]:
    """The question."""
    return {"question": row.question}


def _at(shots: int) -> Figure:
    words = f"questions right after {shots} solved examples"
    return Figure(
        f"accuracy_{shots}",
        "higher",
        "",
        words,
        ratio(f"right_at_{shots}"),
        lambda given: shots in given.shots,
    )


MEASURE = Measure(
    name="few_shot",
    version=1,
    settings=("exam_prompt", "shots"),
    read=read_exams,
    score=score,
    figures=(
        Figure(
            "few_shot",
            "higher",
            "",
            "mean height of the curve of accuracy over the number of examples",
            ratio("shots_area"),
        ),
        *map(_at, SHOTS),
    ),
    comparisons=(),
    shown=shown,
    doc="How much the model learns from examples in its prompt.",
    paper="Brown et al. 2020, arXiv:2005.14165, section 2.4",
    applies=lambda options: bool(options.shots),
)
