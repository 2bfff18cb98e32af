"""A text classifier of one's own choice, from a model folder: what it says of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from tasks.evaluate.measure import Array
from tasks.evaluate.probes.models import Progress
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.stage import Input
from tasks.training.models import load_tokenizer
from tasks.training.own_code import allowed_code, load_config, model_class, needs_code

LONGEST = 512
"""Tokens of a text that are judged, where the classifier does not say less."""
BESIDE = 2
"""Positions that some encoders keep for themselves (RoBERTa)."""


@dataclass(frozen=True)
class Classifier:
    """A loaded sequence classifier.

    Attributes:
        ref: Its reference in the recipe.
        model: In fp32, on the CPU, in eval mode.
        tokenizer: Its tokenizer.
        label: The index of the class that is asked for.
        alone: Each class has a probability of its own (several labels may hold, or there is one only).
        window: Most tokens of a text; the rest is cut off.
    """

    ref: str
    model: Any
    tokenizer: Any
    label: int
    alone: bool
    window: int


def load_classifier(item: Input, label: str) -> Classifier:
    """Load a sequence classifier of transformers.

    Args:
        item: A model folder: config.json, safetensors, tokenizer.json.
        label: The name of a class in its config, whatever its case.

    Raises:
        ConfigInvalid: It is no sequence classifier, has no such class, no padding token, or code of its own.
    """
    code = allowed_code(item.path)
    try:
        config = load_config(item.path, code)
        model, info = model_class(code, AutoModelForSequenceClassification).from_pretrained(
            str(item.path),
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigInvalid(
            f"classifier '{item.ref}' cannot be loaded as a sequence classifier: "
            f"{needs_code(item.path) or error}"
        ) from error
    if info["missing_keys"]:
        raise ConfigInvalid(
            f"classifier '{item.ref}' has no trained head ({sorted(info['missing_keys'])[:3]} are missing): "
            "give a model that was trained to classify"
        )
    names = {str(name).lower(): int(place) for place, name in model.config.id2label.items()}
    if label.lower() not in names:
        raise ConfigInvalid(
            f"classifier '{item.ref}' has no class '{label}'; options.label is one of {', '.join(names)}"
        )
    tokenizer = load_tokenizer(item.path)
    if tokenizer.pad_token is None:
        raise ConfigInvalid(f"classifier '{item.ref}': its tokenizer has no padding token")
    alone = model.config.problem_type == "multi_label_classification" or len(names) == 1
    positions = getattr(model.config, "max_position_embeddings", None) or LONGEST + BESIDE
    window = min(LONGEST, positions - BESIDE)
    return Classifier(item.ref, model.eval(), tokenizer, names[label.lower()], alone, window)


@torch.inference_mode()
def probabilities(classifier: Classifier, texts: Sequence[str], batch_size: int, progress: Progress) -> Array:
    """The probability of the class for every text, shape (N,).

    Raises:
        DataInvalid: The classifier gives values that are not finite.
    """
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    found_N = numpy.empty(len(texts))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        given = classifier.tokenizer(
            [texts[place] for place in chosen],
            padding=True,
            truncation=True,
            max_length=classifier.window,
            return_tensors="pt",
        )
        taken = {name: given[name] for name in ("input_ids", "attention_mask") if name in given}
        logits_BC = classifier.model(**taken).logits.float()
        shares_BC = torch.sigmoid(logits_BC) if classifier.alone else torch.softmax(logits_BC, dim=1)
        found_N[chosen] = shares_BC[:, classifier.label].double().numpy()
        progress((start + len(chosen)) / len(order))
    if not numpy.isfinite(found_N).all():
        raise DataInvalid(f"classifier '{classifier.ref}' gives probabilities that are not finite")
    return found_N
