"""What runs in lm-eval's own interpreter: one task under one model, its answer as JSON.

Started by tasks/evaluate/methods/lm_eval.py as a script of its own with two paths, of the request and of the
answer. It imports nothing of this project: lm-eval may need other versions of what this project needs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Read the request, let lm-eval score, write the answer."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = HFLM(
        pretrained=request["model"],
        tokenizer=request["model"],
        backend="causal",
        dtype="float32",
        device="cpu",
        batch_size=request["batch_size"],
        max_length=request["max_length"],
        trust_remote_code=False,
    )
    seed = request["seed"]
    found = simple_evaluate(
        model=model,
        tasks=[request["task"]],
        num_fewshot=request["num_fewshot"],
        limit=request["limit"],
        apply_chat_template=request["apply_chat_template"],
        log_samples=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=request["folder"]),
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    answer = {name: found[name] for name in ("results", "samples", "versions", "higher_is_better")}
    Path(sys.argv[2]).write_text(json.dumps(answer, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
