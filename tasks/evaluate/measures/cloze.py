"""Cloze facts: does the model still complete a statement with the true words.

Petroni et al. 2019, "Language models as knowledge bases?" (LAMA, arXiv:1909.01066): rank of the true word
in the vocabulary, precision at 1 and k, without fine-tuning; before and after an update, the facts kept,
lost and gained. Differently from LAMA, which fills blanks within sentences with words that are one token: the
blank is at the end, and the rank of an answer of several tokens is the worst of theirs, each after the true
ones before it; at 1 the model would write the answer by itself. Of several right answers the best counts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import numpy
import torch

from tasks.evaluate.measure import Array, Columns, Comparison, Figure, Measure, Share, flips, ratio
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Fact, read_facts
from tasks.evaluate.scoring import LOGITS_BYTES, Row, Subject, batches
from tasks.recipe.failures import DataInvalid


def encode(subject: Subject, fact: Fact, answer: str) -> Row:
    """Tokenise prompt and answer together, as they stand in a sentence: a space joins them.

    Raises:
        DataInvalid: If both do not fit into the window, or there is nothing before the answer.
    """
    prompt = fact.prompt.rstrip()
    tokens = (*subject.prefix, *subject.encode(f"{prompt} {answer}"))
    start = min(len(subject.prefix) + len(subject.encode(prompt)), len(tokens) - 1)
    if start < 1:
        raise DataInvalid(f"fact '{fact.key}': nothing precedes its answer, so that nothing predicts it")
    if len(tokens) > subject.window:
        raise DataInvalid(
            f"fact '{fact.key}' has {len(tokens)} tokens, more than the {subject.window} of model "
            f"'{subject.ref}': shorten it"
        )
    return Row(tokens, range(start, len(tokens)), range(start - 1, len(tokens) - 1))


@torch.inference_mode()
def ranks_and_costs(
    subject: Subject,
    rows: Sequence[Row],
    batch_size: int,
    batch_tokens: int,
    progress: Callable[[float], None] = lambda done: None,
) -> list[tuple[int, float]]:
    """The worst rank, from 1, of a row's scored tokens among the vocabulary, and their cost in nats.

    A tie counts against the token.

    Raises:
        DataInvalid: If the model gives values that are not finite.
    """
    most = LOGITS_BYTES // (4 * subject.model.config.get_text_config().vocab_size)
    sizes = [len(row.sources) for row in rows]
    found: dict[int, tuple[int, float]] = {}
    for chosen in batches(rows, sizes, batch_size, batch_tokens, most):
        longest = len(rows[chosen[0]].tokens)
        tokens_BT = torch.zeros(len(chosen), longest, dtype=torch.long)
        for place, index in enumerate(chosen):
            tokens_BT[place, : len(rows[index].tokens)] = torch.tensor(rows[index].tokens)
        keep_K = torch.tensor(sorted({source for index in chosen for source in rows[index].sources}))
        if "logits_to_keep" in inspect.signature(subject.model.forward).parameters:
            logits_BKV = subject.model(input_ids=tokens_BT, use_cache=False, logits_to_keep=keep_K).logits
        else:
            logits_BKV = subject.model(input_ids=tokens_BT, use_cache=False).logits[:, keep_K]
        for place, index in enumerate(chosen):
            row = rows[index]
            at_S = torch.searchsorted(keep_K, torch.tensor(list(row.sources)))
            logits_SV = logits_BKV[place, at_S].float()
            true_S1 = logits_SV.gather(1, tokens_BT[place, list(row.scored), None])
            costs_S = torch.logsumexp(logits_SV, dim=1) - true_S1[:, 0]
            if not bool(torch.isfinite(costs_S).all()):
                raise DataInvalid(
                    f"model '{subject.ref}' gives log-probabilities that are not finite numbers"
                )
            rank = int((logits_SV >= true_S1).sum(dim=1).max())
            found[index] = rank, float(costs_S.double().sum())
        progress(len(found) / len(rows))
    return [found[index] for index in range(len(rows))]


def score(
    subject: Subject,
    rows: Sequence[Fact],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """The columns: rank, reciprocal_rank, at_1, at_k, nats and bytes (with its space) of the main answer."""
    answers = [(place, answer) for place, row in enumerate(rows) for answer in row.right]
    found = ranks_and_costs(
        subject,
        [encode(subject, rows[place], answer) for place, answer in answers],
        options.batch_size,
        options.batch_tokens,
        progress,
    )
    ranks: list[list[int]] = [[] for _ in rows]
    costs: list[list[float]] = [[] for _ in rows]
    for (place, _), (rank, cost) in zip(answers, found, strict=True):
        ranks[place].append(rank)
        costs[place].append(cost)
    rank_N = numpy.array([float(min(each)) for each in ranks])
    return {
        "rank": rank_N,
        "reciprocal_rank": 1 / rank_N,
        "at_1": (rank_N <= 1).astype(numpy.float64),
        "at_k": (rank_N <= options.cloze_k).astype(numpy.float64),
        "nats": numpy.array([each[0] for each in costs]),
        "bytes": numpy.array([float(len(f" {row.right[0]}".encode())) for row in rows]),
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
        Figure("precision_at_1", "higher", "", "facts that the model completes by itself", ratio("at_1")),
        Figure(
            "precision_at_k", "higher", "", "facts whose true words are among the k likeliest", ratio("at_k")
        ),
        Figure(
            "reciprocal_rank", "higher", "", "mean of 1 / rank of the true words", ratio("reciprocal_rank")
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
    doc="facts: the true words' rank among all, and the answer's cost",
    paper="Petroni et al. 2019, Language models as knowledge bases?, arXiv:1909.01066",
)
