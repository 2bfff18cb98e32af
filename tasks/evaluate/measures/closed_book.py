"""Closed-book questions: the model answers from memory, and its words are compared with the right answers.

Roberts et al. 2020, "How much knowledge can you pack into the parameters of a language model?"
(arXiv:2002.08910): the task; Rajpurkar et al. 2016, SQuAD (arXiv:1606.05250), section 6.1: exact match and
token F1 after normalisation, the best over the right answers; Allen-Zhu and Li 2023, "Physics of language
models 3.1" (arXiv:2309.14316): questions about entities whose questions were never trained on tell whether
knowledge can be extracted, which is this measure on a group of held-out entities. Echterhoff et al. 2024,
MUSCLE (arXiv:2407.09435): negative and positive flips, changes among wrong answers, and for generated text
the share of items whose answer became less like the right one. Differently from MUSCLE, which compares
summaries by ROUGE, likeness is token F1.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy

from tasks.evaluate.generation import Decoding, Prompt, generate, prompt_tokens, speaks_chat, stop_tokens
from tasks.evaluate.measure import Array, Columns, Comparison, Figure, Measure, Share, flips, ratio, texts
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Question, read_questions
from tasks.evaluate.scoring import Subject

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces: SQuAD's normalisation."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(text: str, answers: Sequence[str]) -> bool:
    """Whether the text is one of the answers, both normalised."""
    return normalised(text) in {normalised(answer) for answer in answers}


def token_f1(text: str, answers: Sequence[str]) -> float:
    """The best F1 of the words of the text and of an answer, both normalised: 0 to 1."""
    return max(_f1(normalised(text).split(), normalised(answer).split()) for answer in answers)


def answer_number(text: str) -> float:
    """A number that is the same for the same normalised answer: 52 bits of its sha256."""
    return float(int.from_bytes(hashlib.sha256(normalised(text).encode()).digest()[:7], "little") >> 4)


def score(
    subject: Subject,
    rows: Sequence[Question],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """The columns: exact, f1, answer (a number that tells two apart), unfinished, and the text `said`."""
    chat = speaks_chat(subject, options.prompt_style)
    template = "{question}" if chat else options.question_prompt
    prompts = [
        Prompt(row.key, prompt_tokens(subject, row.key, template.replace("{question}", row.question), chat))
        for row in rows
    ]
    decoding = Decoding(options.answer_tokens, stop_tokens(subject, chat), stops=() if chat else ("\n",))
    given = generate(subject, prompts, decoding, options.batch_size, progress)
    said = [each.text for each in given]
    pairs = list(zip(said, rows, strict=True))
    return {
        "exact": numpy.array([float(exact_match(text, row.answers)) for text, row in pairs]),
        "f1": numpy.array([token_f1(text, row.answers) for text, row in pairs]),
        "answer": numpy.array([answer_number(text) for text in said]),
        "unfinished": numpy.array([float(each.ended == "length") for each in given]),
        "said": texts(said),
    }


def _f1(said: Sequence[str], right: Sequence[str]) -> float:
    if not said or not right:
        return float(said == right)
    shared = sum((Counter(said) & Counter(right)).values())
    return 2 * shared / (len(said) + len(right))


def _less_alike(columns: Columns, other: Columns) -> Array:
    return (columns["f1"] < other["f1"]).astype(numpy.float64)


def _inconsistent(columns: Columns, other: Columns) -> Array:
    wrong_N = (columns["exact"] == 0) & (other["exact"] == 0)
    found_N: Array = (wrong_N & (columns["answer"] != other["answer"])).astype(numpy.float64)
    return found_N


def _shown(row: Question) -> Mapping[str, str]:
    return {"question": row.question, "answer": " / ".join(row.answers)}


MEASURE = Measure(
    name="closed_book",
    version=2,
    settings=("prompt_style", "question_prompt", "answer_tokens"),
    read=read_questions,
    score=score,
    figures=(
        Figure("exact_match", "higher", "", "answers that are right word for word", ratio("exact")),
        Figure("f1", "higher", "", "words shared with the right answer", ratio("f1")),
        Figure("unfinished", "lower", "", "answers cut off, not ended by the model", ratio("unfinished")),
    ),
    comparisons=(
        Comparison(
            "negative_flips", "lower", "", "answers that were right and are wrong", flips("exact", True)
        ),
        Comparison(
            "positive_flips", "higher", "", "answers that were wrong and are right", flips("exact", False)
        ),
        Comparison(
            "less_alike", "lower", "", "answers less like the right one than before", Share(_less_alike)
        ),
        Comparison(
            "inconsistency", "lower", "", "wrong answers that became other wrong ones", Share(_inconsistent)
        ),
    ),
    shown=_shown,
    doc="closed-book questions: generated answers against the right ones",
    paper="Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250; Echterhoff et al. 2024, MUSCLE, arXiv:2407.09435",
)
