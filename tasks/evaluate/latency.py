"""How long a new token takes: wall-clock time, so a metric of the step and no part of any artefact.

Nothing that is compared by digest holds it: the report, its manifest and the kept scores stay what they are
on every machine. It is told for the machine and the threads of the report step, one prompt at a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from tasks.evaluate.generation import Decoding, Prompt, generate, prompt_tokens
from tasks.evaluate.scoring import Subject

PROMPT = "A model is asked to go on from here, always from the same words, so that times can be compared:"
ROUNDS = 7
"""Timed rounds; the median bears that others use the machine in one or two of them."""


def latencies(
    subjects: Mapping[str, Subject],
    new_tokens: int,
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Milliseconds for one new token of each model: the median over rounds.

    Each model continues the same text greedily by `new_tokens` tokens, its end tokens ignored; reading the
    text is part of the time. The models take turns, so that a busy moment hits all of them, after a round
    that is not counted.

    Args:
        subjects: The models by what they are called.
        new_tokens: How far the text is continued.
        rounds: How often.
        clock: Seconds.
    """
    decoding = Decoding(new_tokens, frozenset())
    prompts = {
        name: [Prompt("latency", prompt_tokens(subject, "latency", PROMPT, chat=False))]
        for name, subject in subjects.items()
    }
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, subject in subjects.items():
            started = clock()
            generate(subject, prompts[name], decoding, 1)
            took = clock() - started
            if number:
                found[name].append(took)
    return {name: 1000 * statistics.median(times) / new_tokens for name, times in found.items()}
