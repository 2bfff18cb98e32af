"""Runs llama.cpp's converter, and tells it how the tokenizers of `pretrain/scratch` split text.

    python gguf_converter.py .../convert_hf_to_gguf.py MODEL_DIRECTORY --outfile ... --outtype ...

A GGUF file names the rule by which text is split before the merges (`tokenizer.ggml.pre`). The converter
finds the name by a hash of what a tokenizer makes of one text: it knows the published tokenizers, and none
whose vocabulary was learnt here. The rule itself stands in tokenizer.json. Where the converter does not know
the hash and the rule is GPT-2's, the one of our tokenizers, it is given llama.cpp's name for that rule; every
other tokenizer is refused as before.

A program of its own, of the standard library alone: the converter may need another Python than ours, with
other versions of transformers and torch.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GPT2 = "gpt-2"
"""llama.cpp's name of GPT-2's rule (src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_GPT2)."""


def rule_of(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name of the rule that a tokenizer splits text by, if it is GPT-2's.

    `ByteLevel` with its own pattern is GPT-2's rule, as long as nothing changes the text before it and the
    merges decide after it.

    Args:
        tokenizer: The content of tokenizer.json.
    """
    model, pre = tokenizer.get("model") or {}, tokenizer.get("pre_tokenizer") or {}
    plain = (
        model.get("type") == "BPE"
        and not model.get("ignore_merges")
        and not model.get("byte_fallback")
        and not model.get("dropout")
        and tokenizer.get("normalizer") is None
        and pre.get("type") == "ByteLevel"
        and pre.get("use_regex", True)
        and not pre.get("add_prefix_space")
    )
    return GPT2 if plain else None


def owners(converter: Any) -> Iterator[type]:
    """The converter's classes that look the rule up; none in a converter of before 2025."""
    waiting: list[type] = [converter.ModelBase] if hasattr(converter, "ModelBase") else []
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if "get_vocab_base_pre" in vars(one):
            yield one


def helped(known: Callable[..., str]) -> Callable[..., str]:
    """The converter's look-up, and after it ours."""

    def look_up(self: Any, tokenizer: Any) -> str:
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            path = Path(self.dir_model) / "tokenizer.json"
            rule = rule_of(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
            if rule is None:
                raise
            print(f"tokenizer.json splits text by the rule that llama.cpp calls {rule}", file=sys.stderr)
            return rule

    return look_up


def main(path: Path) -> None:
    """Load the converter as Python would run it, and run it."""
    sys.path[0] = str(path.parent)
    spec = importlib.util.spec_from_file_location("convert_hf_to_gguf", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python program")
    converter = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = converter
    spec.loader.exec_module(converter)
    for owner in list(owners(converter)):
        owner.get_vocab_base_pre = helped(vars(owner)["get_vocab_base_pre"])  # type: ignore[attr-defined]
    converter.main()


if __name__ == "__main__":
    del sys.argv[0]  # the converter's own arguments, its name first
    main(Path(sys.argv[0]).resolve())
