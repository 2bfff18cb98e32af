"""The trainer beside its peers: `python benchmarks/train.py [--quick] [--only NAME ...]`.

Every comparison checks that both sides compute the same, runs each side in processes of its own, in turns
(ours, peer, ours, peer, ...), and prints the medians of five. Times are of the training alone: from the end
of the first optimiser step to the end of the last, so that neither side's imports or first-step costs count;
`start` and `resume` measure those.

    <name> ours=<number> peer=<number> unit=<unit> ratio=<ours over peer, above 1 is better> target=<number>
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5


@dataclass(frozen=True)
class Comparison:
    """One line of the table.

    Attributes:
        ours: The side of train_sides that is ours.
        peer: The other one.
        figure: The number of a side's answer that is compared.
        unit: Of that number.
        more: Whether more of it is better.
        target: The ratio aimed at; 0 where there is none.
        equal: From both sides' answers, the largest difference of what must be equal, and its tolerance.
    """

    ours: str
    peer: str
    figure: str
    unit: str
    more: bool
    target: float
    equal: Callable[[dict[str, Any], dict[str, Any]], tuple[float, float]] | None = None


def same_losses(tolerance: float) -> Callable[[dict[str, Any], dict[str, Any]], tuple[float, float]]:
    """Both sides' losses, step by step."""

    def compare(ours: dict[str, Any], peer: dict[str, Any]) -> tuple[float, float]:
        pairs = zip(ours["losses"], peer["losses"], strict=True)
        return max(abs(a - b) for a, b in pairs), tolerance

    return compare


def same_start(tolerance: float) -> Callable[[dict[str, Any], dict[str, Any]], tuple[float, float]]:
    """The first loss only: the sides then see the data in different batches."""

    def compare(ours: dict[str, Any], peer: dict[str, Any]) -> tuple[float, float]:
        return abs(ours["probe"] - peer["probe"]), tolerance

    return compare


COMPARISONS = {
    "sft_packed": Comparison(
        "sft_ours", "sft_trl_packed", "tokens_per_second", "supervised tokens/s", True, 1.15, same_start(1e-4)
    ),
    "sft_padded": Comparison(
        "sft_ours", "sft_trl_padded", "tokens_per_second", "supervised tokens/s", True, 3.0, same_start(1e-4)
    ),
    "dpo": Comparison("dpo_ours", "dpo_trl", "seconds", "s", False, 1.4, same_losses(1e-3)),
    "loop": Comparison("loop_ours", "loop_bare", "seconds", "s", False, 0.97, same_losses(1e-4)),
    "chunked": Comparison("head_chunked", "head_plain", "peak_mib", "MiB", False, 0.0, same_start(1e-4)),
}

GPU = {
    f"gpu_{shape}": Comparison(
        f"gpu_{shape}_ours", f"gpu_{shape}_trl", "tokens_per_second", "tokens/s", True, 1.0, same_losses(0.1)
    )
    for shape in ("1b", "8b")
}
"""Run where there is a GPU. First losses of random weights are compared: the rows come in other orders."""

RESULTS = Path(__file__).with_name("results")

ALONE = (
    "start", "resume", "checkpoint",
    "scaling_base", "scaling_tokens_x2", "scaling_length_x2", "scaling_layers_x2",
)  # fmt: skip
"""Figures without a peer: seconds to the first step and after a resume, the stall of a save, and scaling."""


def run_side(side: str, size: str, threads: int) -> dict[str, Any]:
    """One side in a process of its own; its last line is its answer, and its files go with it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": folder,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.train_sides", side, size, str(threads)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{side}: ended with {done.returncode}\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def compare(name: str, size: str, threads: int, repeats: int) -> str:
    """A line of the table."""
    each = (COMPARISONS | GPU)[name]
    ours, peer = [], []
    for _ in range(repeats):
        ours.append(run_side(each.ours, size, threads))
        peer.append(run_side(each.peer, size, threads))
        if each.equal is not None:
            difference, tolerance = each.equal(ours[-1], peer[-1])
            if not difference <= tolerance:
                raise SystemExit(f"{name}: the sides differ by {difference:.3g}, more than {tolerance:g}")
    a, b = (statistics.median(answer[each.figure] for answer in side) for side in (ours, peer))
    ratio = a / b if each.more else b / a
    more = [
        f"{figure}={statistics.median(answer[figure] for answer in side):.4g}"
        for figure in ("model_flop_utilisation", "peak_gib")
        for side in (ours, peer)
        if figure in side[0]
    ]
    return " ".join(
        [
            f"{name} ours={a:.4g} peer={b:.4g} unit={each.unit} ratio={ratio:.3f} "
            f"target={each.target or '-'} spread={spread(ours, each.figure)}/{spread(peer, each.figure)}",
            *more,
        ]
    )


def spread(answers: list[dict[str, Any]], figure: str) -> str:
    """Largest over smallest, in per cent above 1: how much a median can be trusted."""
    values = [answer[figure] for answer in answers]
    return f"{100 * (max(values) / min(values) - 1):.0f}%"


def alone(name: str, size: str, threads: int, repeats: int) -> list[str]:
    """The lines of a figure without a peer."""
    answers = [run_side(name, size, threads) for _ in range(repeats)]
    medians = {figure: statistics.median(answer[figure] for answer in answers) for figure in answers[0]}
    return [
        f"{name}.{figure} ours={median:.4g} spread={spread(answers, figure)}"
        for figure, median in medians.items()
    ]


def machine() -> str:
    """Where and when."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    names = ("torch", "transformers", "deepspeed", "trl", "peft")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{os.cpu_count()} x {platform.machine()}, {gpu}; Python {platform.python_version()}, {versions}; "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: under two minutes")
    parser.add_argument("--only", nargs="*", choices=[*COMPARISONS, *GPU, *ALONE], default=None)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    size, repeats = ("quick", 1) if given.quick else ("full", given.repeats)
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        print(line, flush=True)

    everything = [*COMPARISONS, *(GPU if torch.cuda.is_available() else ()), *ALONE]
    for name in given.only or everything:
        if name in ALONE:
            for line in alone(name, size, given.threads, repeats):
                say(line)
        else:
            say(compare(name, size, given.threads, repeats))
    say(f"{given.threads} threads, medians of {repeats}, {size} size; {machine()}")
    RESULTS.mkdir(exist_ok=True)
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    file = RESULTS / f"train-{kind}-{size}-{datetime.now(UTC):%Y-%m-%d}.txt"
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in told)


if __name__ == "__main__":
    main()
