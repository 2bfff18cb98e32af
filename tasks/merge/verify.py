"""Check a written model: with the reference reader of the format, and with the library that will load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tasks.merge.weights import Entry
from tasks.recipe.failures import DataInvalid, Diverged, Infrastructure

PROBE_TOKENS = 16


def verify_files(directory: Path, shards: Mapping[str, Sequence[str]], entries: Mapping[str, Entry]) -> None:
    """Every planned tensor is there, not empty, with its shape and element type.

    Raises:
        Infrastructure: If what is on the disk is not what was written.
    """
    for file, names in shards.items():
        with safe_open(directory / file, framework="pt") as handle:
            if set(handle.keys()) != set(names):
                raise Infrastructure(f"{directory / file}: holds other tensors than were written")
            for name in names:
                part = handle.get_slice(name)
                shape = tuple(part.get_shape())
                if shape != entries[name].shape or part.get_dtype() != entries[name].dtype or 0 in shape:
                    raise Infrastructure(
                        f"{directory / file}: tensor '{name}' is {shape} {part.get_dtype()}, expected "
                        f"{entries[name].shape} {entries[name].dtype}"
                    )


def probe(directory: Path, ref: str) -> None:
    """Load the model in fp32 as a user would and run one forward pass.

    Args:
        directory: The merged model.
        ref: The first parent, which gave it its configuration, for messages.

    Raises:
        DataInvalid: If weights are missing, superfluous or of another shape than config.json asks for.
        Diverged: If the logits are not finite.
    """
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    wrong = {
        key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    wrong = {key: names for key, names in wrong.items() if names}
    if wrong:
        raise DataInvalid(f"the merged model does not fit the config.json of '{ref}': {wrong}")
    model.eval()
    tokens_BT = torch.arange(min(PROBE_TOKENS, model.config.vocab_size)).unsqueeze(0)
    with torch.inference_mode():
        logits_BTV = model(input_ids=tokens_BT, use_cache=False).logits
    if not bool(torch.isfinite(logits_BTV).all()):
        raise Diverged(
            "the merged model's forward pass gives NaN or infinity; use a smaller scale or weights"
        )
