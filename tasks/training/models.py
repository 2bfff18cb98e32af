"""Loading and saving models: any Hugging Face causal LM directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Precision = Literal["fp32", "bf16"]


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory; raises ConfigInvalid where there is none."""
    raise NotImplementedError


def load_model(
    directory: Path, precision: Precision = "fp32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, in eval mode on the CPU, and its tokenizer; raises ConfigInvalid where they do not fit."""
    raise NotImplementedError


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Writes safetensors, config and tokenizer, reads them back and compares the logits of a probe."""
    raise NotImplementedError


def model_meta(directory: Path) -> Mapping[str, Any]:
    """Facts of a model directory, read from its headers: parameters, architecture, vocab_size, ... ."""
    raise NotImplementedError
