"""A checkpoint is loaded as data: a pickle in it that would run code is refused, whoever put it there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.recipe.failures import DataInvalid, Preempted
from tasks.training.checkpoint_data import FORCE, as_data
from tests.unit.training.test_loop import run


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero_stage", "precision"), [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "bf16")]
)
def test_a_pickle_in_a_checkpoint_runs_nothing(
    zero_stage: int, precision: str, make_context: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch_size": 4, "zero_stage": zero_stage, "precision": precision}
    mark = tmp_path / "the-code-ran"
    context = make_context()
    context.stop_after = 2
    with pytest.raises(Preempted):
        run(context, tiny_model_dir, **options)
    newest, _ = context.checkpoints.newest()
    (states,) = [path for path in newest.rglob("*model_states.pt")]
    sound = states.read_bytes()
    torch.save({"module": Bomb(mark)}, states)
    context.stop_after = None
    with pytest.raises(DataInvalid, match="holds more than data"):
        run(context, tiny_model_dir, **options)
    assert not mark.exists()
    states.write_bytes(sound)  # the training's own is data, and is resumed
    run(context, tiny_model_dir, **options)
    assert any("the probe batch has its saved loss" in note for note in context.notes)


def test_it_holds_for_a_caller_that_asks_for_the_contrary_and_ends_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORCE, raising=False)
    torch.save(Bomb(tmp_path / "mark"), tmp_path / "bomb.pt")
    with pytest.raises(DataInvalid), as_data(tmp_path):
        torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert not (tmp_path / "mark").exists()
    assert FORCE not in os.environ
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "mark").exists()  # so the bomb does work


def test_what_fp16_keeps_on_a_gpu_is_data(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(2.0**16, 1000, 1.0, 1, False)
    torch.save({"loss_scaler": scaler}, tmp_path / "states.pt")
    with as_data(tmp_path):
        found = torch.load(tmp_path / "states.pt", weights_only=False)["loss_scaler"]
    assert vars(found) == vars(scaler)
