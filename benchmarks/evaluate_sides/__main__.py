"""Runs one side: `python -m benchmarks.evaluate_sides SIDE SIZE THREADS`.

The last line on standard output is a JSON object: what was measured and what must be equal.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import torch

SIDES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "choice_12m_ours": ("choice", "ours", {"shape": "12m", "shots": 2}),
    "choice_12m_lm_eval": ("choice", "lm_eval", {"shape": "12m", "shots": 2}),
    "choice_12m_bare_ours": ("choice", "ours", {"shape": "12m", "shots": 0}),
    "choice_12m_bare_lm_eval": ("choice", "lm_eval", {"shape": "12m", "shots": 0}),
    "choice_125m_ours": ("choice", "ours", {"shape": "125m", "shots": 2}),
    "choice_125m_lm_eval": ("choice", "lm_eval", {"shape": "125m", "shots": 2}),
    "choice_125m_bare_ours": ("choice", "ours", {"shape": "125m", "shots": 0}),
    "choice_125m_bare_lm_eval": ("choice", "lm_eval", {"shape": "125m", "shots": 0}),
    "generation_ours": ("generation", "ours", {}),
    "generation_loop": ("generation", "loop", {}),
    "bits_ours": ("bits", "ours", {}),
    "bits_packed": ("bits", "packed", {}),
}
"""Side -> file, function, what it is called with. A side's process imports its own file only."""


def main() -> None:
    """Runs the side that the command line names."""
    side, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    module, function, more = SIDES[side]
    run = getattr(importlib.import_module(f"benchmarks.evaluate_sides.{module}"), function)
    print(json.dumps(run(size=size, **more), allow_nan=False))


if __name__ == "__main__":
    main()
