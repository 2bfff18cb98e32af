"""The evaluation beside its peers: `python benchmarks/evaluate.py [--quick] [--only NAME ...]`.

Every comparison checks that both sides compute the same, runs each side in processes of its own, in turns
(ours, peer, ours, peer, ...), and prints the medians of five. Times are of the scoring alone, tokenising
included: models, tokenizer and texts are there before, and a few items have been run.

    <name> ours=<number> peer=<number> unit=<unit> ratio=<ours over peer, above 1 is better> target=<number>

lm-evaluation-harness may live in an environment of its own: `--lm-eval PYTHON` names that environment's
Python (see docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5
RESULTS = Path(__file__).with_name("results")
Answer = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One line of the table.

    Attributes:
        ours: The side of evaluate_sides that is ours.
        peer: The other one.
        figure: The number of a side's answer that is compared; more of it is better.
        unit: Of that number.
        target: The ratio aimed at; 0 where there is none.
        apart: From both sides' answers, the largest difference of what must be equal.
        tolerance: How large it may be.
        harness: Whether the peer is lm-evaluation-harness.
    """

    ours: str
    peer: str
    figure: str
    unit: str
    target: float
    apart: Callable[[Answer, Answer], float]
    tolerance: float
    harness: bool = False


def scores_apart(ours: Answer, peer: Answer) -> float:
    """Of the log-likelihoods of all options, in nats."""
    return max(
        abs(float(a - b))
        for one, other in zip(ours["scores"], peer["scores"], strict=True)
        for a, b in zip(one, other, strict=True)
    )


def tokens_apart(ours: Answer, peer: Answer) -> float:
    """How many continuations differ."""
    return float(sum(a != b for a, b in zip(ours["tokens"], peer["tokens"], strict=True)))


def first_apart(ours: Answer, peer: Answer) -> float:
    """Of the first document's nats."""
    return abs(float(ours["first"] - peer["first"]))


def choice(name: str, target: float) -> Comparison:
    """Multiple choice beside lm-evaluation-harness."""
    return Comparison(
        f"{name}_ours", f"{name}_lm_eval", "documents_per_second", "documents/s", target,
        scores_apart, 1e-4, harness=True,
    )  # fmt: skip


COMPARISONS = {
    "choice_12m": choice("choice_12m", 4.0),
    "choice_12m_bare": choice("choice_12m_bare", 0.0),
    "choice_125m": choice("choice_125m", 3.0),
    "choice_125m_bare": choice("choice_125m_bare", 0.0),
    "generation": Comparison(
        "generation_ours", "generation_loop", "tokens_per_second", "tokens/s", 0.0, tokens_apart, 0.0
    ),
    "bits_per_byte": Comparison(
        "bits_ours", "bits_packed", "tokens_per_second", "tokens/s", 0.95, first_apart, 1e-3
    ),
}  # fmt: skip


def run_side(side: str, size: str, threads: int, python: str) -> Answer:
    """One side in a process of its own; its last line is its answer."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [python, "-m", "benchmarks.evaluate_sides", side, size, str(threads)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{side}: ended with {done.returncode}\n{done.stderr[-3000:]}")
    answer: Answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def compare(name: str, size: str, threads: int, repeats: int, harness: str) -> str:
    """A line of the table."""
    each = COMPARISONS[name]
    ours, peer = [], []
    for _ in range(repeats):
        ours.append(run_side(each.ours, size, threads, sys.executable))
        peer.append(run_side(each.peer, size, threads, harness if each.harness else sys.executable))
        apart = each.apart(ours[-1], peer[-1])
        if not apart <= each.tolerance:
            raise SystemExit(f"{name}: the sides differ by {apart:.3g}, more than {each.tolerance:g}")
    a, b = (statistics.median(answer[each.figure] for answer in side) for side in (ours, peer))
    return (
        f"{name} ours={a:.4g} peer={b:.4g} unit={each.unit} ratio={a / b:.3f} target={each.target or '-'} "
        f"spread={spread(ours, each.figure)}/{spread(peer, each.figure)}"
    )


def spread(answers: list[Answer], figure: str) -> str:
    """Largest over smallest, in per cent above 1: how much a median can be trusted."""
    values = [answer[figure] for answer in answers]
    return f"{100 * (max(values) / min(values) - 1):.0f}%"


def machine(harness: str) -> str:
    """Where and when."""
    code = "from importlib.metadata import version; print(version('lm-eval'), version('torch'))"
    told = subprocess.run([harness, "-c", code], capture_output=True, text=True, check=False)
    peer, _, torch_of_peer = told.stdout.strip().partition(" ")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
    return (
        f"{os.cpu_count()} x {platform.machine()}; Python {platform.python_version()}, {versions}, lm-eval "
        f"{peer or 'not installed'} (torch {torch_of_peer or '-'}); {datetime.now(UTC):%Y-%m-%d}"
    )


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: under a minute")
    parser.add_argument("--only", nargs="*", choices=[*COMPARISONS], default=None)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--lm-eval", default=sys.executable, help="the Python that has lm-eval")
    given = parser.parse_args()
    size, repeats = ("quick", 1) if given.quick else ("full", given.repeats)
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        print(line, flush=True)

    for name in given.only or COMPARISONS:
        say(compare(name, size, given.threads, repeats, given.lm_eval))
    say(f"{given.threads} threads, medians of {repeats}, {size} size; {machine(given.lm_eval)}")
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"evaluate-cpu-{size}-{datetime.now(UTC):%Y-%m-%d}.txt"
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in told)


if __name__ == "__main__":
    main()
