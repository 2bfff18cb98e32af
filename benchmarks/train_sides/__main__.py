"""Runs one side: `python -m benchmarks.train_sides SIDE SIZE THREADS`.

The last line on standard output is a JSON object: what was measured and what must be equal.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch

SIDES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "sft_ours": ("sft", "sft_ours", {}),
    "sft_trl_packed": ("sft", "sft_trl", {"packing": True}),
    "sft_trl_padded": ("sft", "sft_trl", {"packing": False}),
    "dpo_ours": ("dpo", "dpo_ours", {}),
    "dpo_trl": ("dpo", "dpo_trl", {}),
    "head_chunked": ("head", "head", {"chunk": 256}),
    "head_plain": ("head", "head", {"chunk": 0}),
    "gpu_tiny_ours": ("gpu", "gpu_ours", {"shape": "tiny"}),
    "gpu_tiny_trl": ("gpu", "gpu_trl", {"shape": "tiny"}),
    "gpu_1b_ours": ("gpu", "gpu_ours", {"shape": "1b"}),
    "gpu_1b_trl": ("gpu", "gpu_trl", {"shape": "1b"}),
    "gpu_8b_ours": ("gpu", "gpu_ours", {"shape": "8b"}),
    "gpu_8b_trl": ("gpu", "gpu_trl", {"shape": "8b"}),
    "loop_ours": ("loop", "loop_ours", {}),
    "loop_bare": ("loop", "loop_bare", {}),
    "start": ("loop", "start", {}),
    "resume": ("loop", "resume", {}),
    "checkpoint": ("loop", "checkpoint", {}),
    "scaling_base": ("loop", "scaling", {"scale": "base"}),
    "scaling_tokens_x2": ("loop", "scaling", {"scale": "tokens_x2"}),
    "scaling_length_x2": ("loop", "scaling", {"scale": "length_x2"}),
    "scaling_layers_x2": ("loop", "scaling", {"scale": "layers_x2"}),
}
"""Side -> file, function, what it is called with. A side's process imports its own file only."""


def main() -> None:
    """Runs the side that the command line names."""
    side, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    module, function, more = SIDES[side]
    run = getattr(importlib.import_module(f"benchmarks.train_sides.{module}"), function)
    answer = run(size=size, threads=int(threads), **more)
    assert all(math.isfinite(value) for value in answer.values() if isinstance(value, float))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
