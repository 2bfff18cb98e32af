"""Reads DeepSpeed's checkpoints as data: no pickle in them can run code.

DeepSpeed writes its part of a checkpoint with torch.save and reads it with `weights_only=False`, which runs
whatever the file says. Torch's own restricted unpickler is forced on it here, for the time of the loading,
with the few classes of DeepSpeed that its checkpoints hold.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tasks.recipe.failures import DataInvalid

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_GLOBAL = re.compile(r"GLOBAL (\S+) ")


@contextlib.contextmanager
def as_data(directory: Path) -> Iterator[None]:
    """While it is open, torch.load builds tensors, plain values and `known_classes`, whoever calls it.

    Args:
        directory: The checkpoint that is loaded, for the message.

    Raises:
        DataInvalid: A file in it holds something else.
    """
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals(known_classes()):
            yield
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))  # torch's own words go on to say how to load it all the same
        what = found[1] if found else "a broken pickle"
        raise DataInvalid(
            f"the checkpoint {directory} holds more than data ({what}): this training did not write it, or "
            f"another DeepSpeed did; remove it, or start again with --fresh"
        ) from error
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before


def known_classes() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """The classes of DeepSpeed 0.19 that its own checkpoints hold: plain holders of numbers."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
