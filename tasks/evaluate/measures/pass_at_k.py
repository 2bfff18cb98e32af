"""Pass at k: programs that the model writes are run against their tests.

Chen et al. 2021, "Evaluating large language models trained on code" (arXiv:2107.03374), section 2.1: of n
samples c pass; the unbiased estimate of the chance that one of k passes is 1 - C(n-c, k) / C(n, k).
Programs run in tasks/evaluate/sandbox.py. A model with a chat template is shown the prompt as a user's
turn, and the first code block of its answer (all of it where there is none) is run behind the prompt, where
the prompt is Python itself; another one continues the prompt, and is cut where its function ends.
"""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy

from tasks.evaluate.generation import Decoding, Prompt, generate, prompt_tokens, speaks_chat, stop_tokens
from tasks.evaluate.measure import Columns, Comparison, Figure, Measure, flips, ratio, texts
from tasks.evaluate.options import SuiteOptions
from tasks.evaluate.rows import Program, read_programs
from tasks.evaluate.sandbox import Limits, run_program
from tasks.evaluate.scoring import Subject

STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\nassert ", "\n```")
"""Where a continued function ends: at the next thing in the first column (Chen et al. 2021, section 2.2)."""
BLOCK = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
GENERATING = 0.9
"""The share of the time that generating takes, for the progress that is shown."""


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased chance that at least one of k samples passes, of `samples` of which `passed` did."""
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def whole_program(row: Program, said: str, chat: bool) -> str:
    """The program to run: what the model was given and said, and the tests."""
    if chat:
        block = BLOCK.search(said)
        code = block.group(1) if block else said
        body = f"{row.prompt}\n\n{code}" if _is_python(row.prompt) else code
    else:
        body = row.prompt + said
    call = f"\ncheck({row.entry_point})\n" if row.entry_point else ""
    return f"{body}\n\n{row.tests}\n{call}"


def score(
    subject: Subject,
    rows: Sequence[Program],
    options: SuiteOptions,
    seed: int,
    progress: Callable[[float], None],
) -> Columns:
    """The columns: passed (N, samples), at_1, at_k, solved (1 where at least half pass), and texts `said`."""
    chat = speaks_chat(subject, options.prompt_style)
    samples = options.program_samples
    prompts = [
        Prompt(row.key, tokens, sample)
        for row in rows
        for tokens in [prompt_tokens(subject, row.key, row.prompt, chat)]
        for sample in range(samples)
    ]
    decoding = Decoding(
        options.program_tokens,
        stop_tokens(subject, chat),
        stops=() if chat else STOPS,
        temperature=options.program_temperature,
        top_p=options.program_top_p,
        seed=seed,
    )
    said = generate(subject, prompts, decoding, options.batch_size, lambda done: progress(GENERATING * done))
    programs = [
        whole_program(row, said[place * samples + sample].text, chat)
        for place, row in enumerate(rows)
        for sample in range(samples)
    ]
    limits = Limits(seconds=options.program_seconds, memory_bytes=options.program_memory_mib << 20)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        outcomes = list(pool.map(lambda program: run_program(program, limits), programs))
    progress(1.0)
    passed_NK = numpy.array([float(each.ended == "passed") for each in outcomes]).reshape(len(rows), samples)
    late_NK = numpy.array([float(each.ended == "out of time") for each in outcomes]).reshape(passed_NK.shape)
    return {
        "passed": passed_NK,
        "at_1": passed_NK.mean(axis=1),
        "at_k": numpy.array([pass_at_k(samples, int(row.sum()), options.pass_k) for row in passed_NK]),
        "solved": (passed_NK.mean(axis=1) >= 0.5).astype(numpy.float64),
        "late": late_NK.mean(axis=1),
        "said": texts(
            [[each.text for each in said[at : at + samples]] for at in range(0, len(said), samples)]
        ),
    }


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _shown(row: Program) -> Mapping[str, str]:
    return {"prompt": row.prompt, "tests": row.tests}


MEASURE = Measure(
    name="pass_at_k",
    version=2,
    settings=(
        "prompt_style",
        "program_samples",
        "pass_k",
        "program_tokens",
        "program_temperature",
        "program_top_p",
        "program_seconds",
        "program_memory_mib",
    ),
    read=read_programs,
    score=score,
    figures=(
        Figure("pass_at_1", "higher", "", "samples that pass their tests", ratio("at_1")),
        Figure("pass_at_k", "higher", "", "chance that one of k samples passes", ratio("at_k")),
        Figure("out_of_time", "lower", "", "samples that did not end in time", ratio("late")),
    ),
    comparisons=(
        Comparison(
            "negative_flips", "lower", "", "programs solved before and not now", flips("solved", True)
        ),
        Comparison(
            "positive_flips", "higher", "", "programs solved now and not before", flips("solved", False)
        ),
    ),
    shown=_shown,
    doc="generated programs that pass their tests, run in a sandbox: seccomp and Landlock",
    paper="Chen et al. 2021, Evaluating large language models trained on code, arXiv:2107.03374",
)
