"""Greedy continuations: ours in batches; a plain loop of `generate`, one prompt after the other."""

from __future__ import annotations

import torch

from benchmarks.evaluate_sides.common import Answer, exams, model, subject, timed, tokenizer
from tasks.evaluate.generation import Decoding, Prompt, generate
from tasks.evaluate.options import SuiteOptions

PROMPTS = {"full": 48, "quick": 8}
NEW = {"full": 64, "quick": 16}


def prompts(size: str) -> list[list[int]]:
    """The exam's questions in tokens, behind the beginning of text."""
    words = tokenizer()
    return [[words.bos_token_id, *words(row.question)["input_ids"]] for row in exams(PROMPTS[size])]


def ours(size: str) -> Answer:
    """Batches with a cache, the prompts padded on the left."""
    held = subject("12m")
    asked = [Prompt(str(place), tuple(ids)) for place, ids in enumerate(prompts(size))]
    decoding = Decoding(new_tokens=NEW[size], stop_tokens=frozenset())
    batch_size = SuiteOptions().batch_size
    found, seconds = timed(
        lambda: generate(held, asked, decoding, batch_size),
        lambda: generate(held, asked[:2], Decoding(new_tokens=4, stop_tokens=frozenset()), 2),
    )
    tokens = [list(each.tokens) for each in found]
    return {"tokens_per_second": sum(map(len, tokens)) / seconds, "tokens": tokens}


@torch.inference_mode()
def loop(size: str) -> Answer:
    """What transformers does by itself."""
    built = model("12m")
    rows = [torch.tensor([ids]) for ids in prompts(size)]

    def run(chosen: list[torch.Tensor], new: int) -> list[list[int]]:
        found = []
        for ids_1T in chosen:
            whole_1T = built.generate(
                input_ids=ids_1T,
                attention_mask=torch.ones_like(ids_1T),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                use_cache=True,
                pad_token_id=2,
                eos_token_id=None,
            )
            found.append(whole_1T[0, ids_1T.shape[1] :].tolist())
        return found

    tokens, seconds = timed(lambda: run(rows, NEW[size]), lambda: run(rows[:2], 4))
    return {"tokens_per_second": sum(map(len, tokens)) / seconds, "tokens": tokens}
