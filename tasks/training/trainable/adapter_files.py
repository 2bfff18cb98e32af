"""Adapters as artefacts of their own: peft's files, bound by digest to the model they were trained beside.

    adapter_config.json, adapter_model.safetensors    as peft writes them, so that other programs read them
    base.json                                         the base's digest, tokenizer and architecture

Whoever loads one names the digest of the model that it goes beside, and another one is refused: an adapter is
a difference, and on other weights it is noise (AdapterHub, Pfeiffer et al. 2020, arXiv 2007.07779, names
adapters by their model; a digest cannot be mistaken).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.training.models import load_model, save_model, tokenizer_digest
from tasks.training.trainable.adapter import merge_adapter

BASE = "base.json"


class Base(BaseModel):
    """What an adapter is bound to.

    Attributes:
        digest: Of the base's artefact.
        tokenizer: sha256 of the base's tokenizer.json.
        architecture: The base's class.
        trainable: The adapter's method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    tokenizer: str
    architecture: str
    trainable: str


def save_adapter(adapted: PeftModel, base: Path, digest: str, trainable: str, directory: Path) -> None:
    """Write an adapter and what it is bound to.

    Args:
        adapted: With its trained adapter, not merged, in fp32.
        base: The directory of the model it stands beside.
        digest: Of that model's artefact.
        trainable: The adapter's method.
        directory: Where to.
    """
    adapted.save_pretrained(str(directory), safe_serialization=True)
    (directory / "README.md").unlink(missing_ok=True)  # peft's empty card; ours is the version's
    path = directory / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None  # a folder of this machine; base.json says it
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    architecture = json.loads((base / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    bound = Base(
        digest=digest,
        tokenizer=tokenizer_digest(base),
        architecture=architecture[0],
        trainable=trainable,
    )
    (directory / BASE).write_text(bound.model_dump_json(indent=1) + "\n", encoding="utf-8")


def base_of(adapter: Path) -> Base:
    """What an adapter is bound to.

    Raises:
        DataInvalid: It does not say so.
    """
    try:
        return Base.model_validate_json((adapter / BASE).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataInvalid(f"{adapter}: no adapter of ours: {BASE}: {error}") from error


def check_base(adapter: Path, base: Path, digest: str) -> Base:
    """Refuse another model than the one that an adapter was trained beside.

    Args:
        adapter: Its directory.
        base: The model's directory.
        digest: Of the model's artefact.

    Raises:
        ConfigInvalid: It is another one.
        DataInvalid: It does not say which, or the tokenizer is another one.
    """
    bound = base_of(adapter)
    if bound.digest != digest:
        raise ConfigInvalid(
            f"the adapter {adapter} was trained beside the model {bound.digest}, not {digest}; on other "
            "weights it means nothing. Name its own base, or train it again beside this one"
        )
    if bound.tokenizer != tokenizer_digest(base):
        raise DataInvalid(f"{base}: its tokenizer is not the one that the adapter {adapter} was trained with")
    return bound


def stack(base: Path, digest: str, adapters: Sequence[Path]) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The base with adapters beside its layers, all active and none merged: their updates add up.

    Args:
        base: The model's directory.
        digest: Of its artefact.
        adapters: Directories; more than one only of the LoRA family without DoRA, whose updates are sums.

    Returns:
        The model in fp32 and eval mode, and its tokenizer.

    Raises:
        ConfigInvalid: One is bound to another model, or they cannot stand beside each other.
        DataInvalid: One cannot be read.
    """
    kinds = [check_base(adapter, base, digest).trainable for adapter in adapters]
    _check_stack(kinds)
    model, tokenizer = load_model(base)
    adapted: Any = None
    for number, adapter in enumerate(adapters):
        try:
            if adapted is None:
                # `model` is loaded, so this reads tensors alone and has no use for trust_remote_code.
                adapted = PeftModel.from_pretrained(model, str(adapter), adapter_name="0")
            else:
                adapted.load_adapter(str(adapter), adapter_name=str(number))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise DataInvalid(f"the adapter {adapter} cannot be loaded: {error}") from error
    if len(adapters) > 1:
        adapted.base_model.set_adapter([str(number) for number in range(len(adapters))])
    return adapted.float().eval(), tokenizer


def combine(
    base: Path, digest: str, adapters: Sequence[Path], weights: Sequence[float] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base with adapters merged into its weights, each times its weight; checked against the stack.

    Args:
        base: The model's directory.
        digest: Of its artefact.
        adapters: Directories.
        weights: One for each; None for 1 each.

    Returns:
        The whole model in fp32 and eval mode, and its tokenizer.

    Raises:
        What `stack` raises; ConfigInvalid: a weight other than 1 for an adapter that has no scale; and
        Infrastructure: the merged model computes something else.
    """
    adapted, tokenizer = stack(base, digest, adapters)
    for number, (adapter, weight) in enumerate(zip(adapters, weights or [1.0] * len(adapters), strict=True)):
        if weight == 1.0:
            continue
        if base_of(adapter).trainable not in SUMS:
            raise ConfigInvalid(
                f"a weight of {weight:g} means nothing for an adapter of '{base_of(adapter).trainable}', "
                f"which is no sum; give it 1, or take one of {', '.join(SUMS)}"
            )
        for module in adapted.modules():
            if isinstance(module, LoraLayer) and str(number) in module.scaling:
                module.scaling[str(number)] *= weight
    return merge_adapter(adapted, _probe(adapted)), tokenizer


def merged(base: Path, digest: str, adapters: Sequence[Path], out: Path) -> Path:
    """Write the whole model that adapters and their base make; the directory."""
    model, tokenizer = combine(base, digest, adapters)
    save_model(model, tokenizer, out)
    out.with_name(f"{out.name}.probe").unlink(missing_ok=True)
    return out


SUMS = ("lora", "rslora", "eva", "adalora")
"""Adapters whose update is added to the weight, times a scale."""


def _check_stack(kinds: Sequence[str]) -> None:
    if not kinds:
        raise ConfigInvalid("there is no adapter to put beside the model; name one or more")
    if len(kinds) > 1:
        odd = [kind for kind in kinds if kind not in SUMS or kind == "adalora"]
        if odd:
            raise ConfigInvalid(
                f"adapters of '{odd[0]}' do not add up with others: stack lora, rslora and eva, or merge "
                "one, and train the next beside the result"
            )


def _probe(adapted: PeftModel) -> Tensor:
    """A fixed row of 16 tokens, shape (1, 16)."""
    rows: int = adapted.get_input_embeddings().weight.shape[0]
    return (torch.arange(16) * 7919 % rows)[None]
