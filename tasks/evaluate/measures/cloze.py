"""Cloze facts: does the model still complete a statement with the true words.

Petroni et al. 2019, "Language models as knowledge bases?" (LAMA, arXiv:1909.01066): rank of the true word
in the vocabulary, precision at 1 and k, without fine-tuning; before and after an update, the facts kept,
lost and gained. Differently from LAMA, which fills blanks within sentences with words that are one token:
the blank is at the end, an answer may have several tokens and aliases, and it is the best rank of the first
token of any of them that counts. Where that token begins many answers too, the log-likelihood of the whole
answer tells more.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch

from tasks.evaluate.measure import Array, Columns, Comparison, Figure, Measure, Share, flips, ratio
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Fact, read_facts
from tasks.evaluate.scoring import Row, Subject, log_probs
from tasks.recipe.failures import DataInvalid


@dataclass(frozen=True)
class Encoded:
    """A fact in tokens: the prompt with its answer, where the answer begins, and how right answers begin."""

    tokens: tuple[int, ...]
    start: int
    firsts: frozenset[int]


def encode(subject: Subject, fact: Fact) -> Encoded:
    """Tokenise prompt and answer together, as they stand in a sentence: a space joins them.

    Raises:
        DataInvalid: If both do not fit into the window, or there is nothing before the answer.
    """
    prompt = fact.prompt.rstrip()
    begin = len(subject.prefix) + len(subject.encode(prompt))
    wholes = [(*subject.prefix, *subject.encode(f"{prompt} {answer}")) for answer in fact.right]
    start = min(begin, min(len(whole) for whole in wholes) - 1)
    if start < 1:
        raise DataInvalid(f"fact '{fact.key}': nothing precedes its answer, so that nothing predicts it")
    if len(wholes[0]) > subject.window:
        raise DataInvalid(
            f"fact '{fact.key}' has {len(wholes[0])} tokens, more than the {subject.window} of model "
            f"'{subject.ref}': shorten it"
        )
    # a tokenizer may merge the end of the prompt with the beginning of an answer: such an alias has another
    # context, and says nothing about what follows this one
    firsts = {whole[start] for whole in wholes if whole[:start] == wholes[0][:start]}
    return Encoded(wholes[0], start, frozenset(firsts))


@torch.inference_mode()
def ranks(
    subject: Subject,
    facts: Sequence[Encoded],
    batch_size: int,
    progress: Callable[[float], None] = lambda done: None,
) -> list[int]:
    """The best rank, from 1, of the first token of a right answer in the vocabulary; ties count against it.

    Raises:
        DataInvalid: If the model gives values that are not finite.
    """
    order = sorted(range(len(facts)), key=lambda index: -facts[index].start)
    found: dict[int, int] = {}
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        longest = facts[chosen[0]].start
        tokens_BT = torch.zeros(len(chosen), longest, dtype=torch.long)
        for row, index in enumerate(chosen):
            fact = facts[index]
            tokens_BT[row, : fact.start] = torch.tensor(fact.tokens[: fact.start])
        keep_K = torch.tensor(sorted({facts[index].start - 1 for index in chosen}))
        if "logits_to_keep" in inspect.signature(subject.model.forward).parameters:
            logits_BKV = subject.model(input_ids=tokens_BT, use_cache=False, logits_to_keep=keep_K).logits
        else:
            logits_BKV = subject.model(input_ids=tokens_BT, use_cache=False).logits[:, keep_K]
        for row, index in enumerate(chosen):
            logits_V = logits_BKV[row, torch.searchsorted(keep_K, facts[index].start - 1)].float()
            if not bool(torch.isfinite(logits_V).all()):
                raise DataInvalid(f"model '{subject.ref}' gives logits that are not finite")
            best = logits_V[sorted(facts[index].firsts)].max()
            found[index] = int((logits_V >= best).sum())
        progress(len(found) / len(facts))
    return [found[index] for index in range(len(facts))]


def score(
    subject: Subject,
    rows: Sequence[Fact],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """The columns: rank, reciprocal_rank, at_1, at_k, nats and bytes of the answer (its space included)."""
    facts = [encode(subject, row) for row in rows]
    rank_N = numpy.array(
        ranks(subject, facts, options.batch_size, lambda done: progress(done / 2)), dtype=numpy.float64
    )
    whole = [
        Row(fact.tokens, range(fact.start, len(fact.tokens)), range(fact.start - 1, len(fact.tokens) - 1))
        for fact in facts
    ]
    scores = log_probs(
        subject, whole, options.batch_size, lambda done: progress(0.5 + done / 2), options.batch_tokens
    )
    return {
        "rank": rank_N,
        "reciprocal_rank": 1 / rank_N,
        "at_1": (rank_N <= 1).astype(numpy.float64),
        "at_k": (rank_N <= options.cloze_k).astype(numpy.float64),
        "nats": numpy.array([-float(each.sum()) for each in scores]),
        "bytes": numpy.array([float(len(f" {row.answer}".encode())) for row in rows]),
    }


def _still_known(columns: Columns, other: Columns) -> Array:
    """Of the facts that the other model knows, those that the candidate knows; NaN for the others."""
    return numpy.where(other["at_1"] == 1, columns["at_1"], numpy.nan)


def _shown(row: Fact) -> Mapping[str, str]:
    return {"prompt": row.prompt, "answer": " / ".join(row.right)}


MEASURE = Measure(
    name="cloze",
    version=1,
    settings=("cloze_k",),
    read=read_facts,
    score=score,
    figures=(
        Figure("precision_at_1", "higher", "", "facts whose true word is the likeliest", ratio("at_1")),
        Figure(
            "precision_at_k", "higher", "", "facts whose true word is among the k likeliest", ratio("at_k")
        ),
        Figure(
            "reciprocal_rank", "higher", "", "mean of 1 / rank of the true word", ratio("reciprocal_rank")
        ),
        Figure(
            "answer_nats_per_byte", "lower", "nats/byte", "cost of the true answer", ratio("nats", "bytes")
        ),
    ),
    comparisons=(
        Comparison(
            "lost", "lower", "", "facts that the other knows and this model does not", flips("at_1", True)
        ),
        Comparison(
            "gained", "higher", "", "facts that this model knows and the other not", flips("at_1", False)
        ),
        Comparison(
            "kept", "higher", "", "of the facts that the other knows, those still known", Share(_still_known)
        ),
    ),
    shown=_shown,
    doc="facts: the true word's rank among all words, and the answer's cost",
    paper="Petroni et al. 2019, Language models as knowledge bases?, arXiv:1909.01066",
)
