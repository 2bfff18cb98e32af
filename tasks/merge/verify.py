"""Check a written model: with the reference reader of the format, and with the library that will load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from tasks.merge.weights import Entry
from tasks.recipe.failures import Diverged, Infrastructure
from tasks.training.models import load_model, probe_logits


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


def probe(directory: Path) -> None:
    """Load the model in fp32 as a user would and run one forward pass.

    Raises:
        ConfigInvalid: If weights are missing or do not fit config.json or the tokenizer.
        Diverged: If the logits are not finite.
    """
    model, _ = load_model(directory)
    if not bool(torch.isfinite(probe_logits(model)).all()):
        raise Diverged(
            "the merged model's forward pass gives NaN or infinity; use a smaller scale or weights"
        )
