"""Which checkpoints stay, what proves that one is itself, and what another number of processes does."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.recipe.failures import ConfigInvalid, Infrastructure, OutOfMemory, Preempted
from tasks.training.checkpoint import Geometry, State, keep
from tasks.training.elastic import keep_samples_per_step
from tasks.training.estimate import MemoryParts, memory_parts
from tasks.training.options import TrainOptions
from tasks.training.preflight import check_disk, device_memory
from tasks.training.uploads import Uploads
from tests.unit.training.test_loop import run


def state_with(losses: list[float]) -> State:
    state = State(Geometry("causal_lm", 0, 100, 100, 1, 0, "fp32"), 1)
    state.rows = [{"samples": number + 1, "loss": loss} for number, loss in enumerate(losses)]
    return state


def test_the_newest_and_the_best_stay() -> None:
    state = state_with([5.0, 4.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    assert keep(state, 2, 2, True) == [2]
    assert keep(state, 4, 2, True) == [2, 4]
    assert state.best == (4, 1.0)
    assert keep(state, 6, 2, True) == [4, 6]
    assert keep(state, 8, 2, True) == [4, 6, 8]
    assert keep(state, 8, 1, False) == [8]


def test_a_training_keeps_what_it_was_told(make_context, tiny_model_dir):
    context = make_context()
    run(context, tiny_model_dir, batch_size=4, checkpoint_every=1, keep_checkpoints=3)
    assert [int(path.name) for path in context.checkpoints.complete()] == [24, 28, 32]
    assert not list(context.work.glob("checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_a_checkpoint_that_gives_another_model_is_refused(zero_stage, make_context, tiny_model_dir):
    context = make_context()
    context.stop_after = 3
    with pytest.raises(Preempted):
        run(context, tiny_model_dir, batch_size=4, zero_stage=zero_stage)
    newest, _ = context.checkpoints.newest()
    shutil.copytree(newest, context.directory / "kept")
    probe = json.loads((newest / "probe.json").read_text())
    (newest / "probe.json").write_text(json.dumps({"loss": probe["loss"] * 1.001}))
    context.stop_after = None
    with pytest.raises(Infrastructure, match="this is not the model that was saved"):
        run(context, tiny_model_dir, batch_size=4, zero_stage=zero_stage)
    shutil.copy(context.directory / "kept" / "probe.json", newest)
    run(context, tiny_model_dir, batch_size=4, zero_stage=zero_stage)
    assert any("the probe batch has its saved loss" in note for note in context.notes)


def test_uploads_run_beside_and_tell_their_failure(tmp_path: Path) -> None:
    released, published = threading.Event(), []

    def publish(directory: Path, position: int, keep: object) -> None:
        assert released.wait(60)
        published.append((directory.name, position, keep))
        if position == 3:
            raise Infrastructure("the store is full")

    uploads = Uploads(publish)
    for name in "abcd":
        (tmp_path / name).mkdir()
    uploads.start(tmp_path / "a", 1, [1])  # returns while the upload waits
    assert published == []
    released.set()
    uploads.start(tmp_path / "b", 2, [1, 2])
    uploads.start(tmp_path / "c", 3, [])
    with pytest.raises(Infrastructure, match="the store is full"):
        uploads.start(tmp_path / "d", 4, [])
    uploads.wait()
    uploads.close()
    assert published == [("a", 1, (1,)), ("b", 2, (1, 2)), ("c", 3, ())]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["c", "d"], "what failed is not lost"


def test_other_processes_keep_the_samples_of_a_step() -> None:
    options = TrainOptions(batch_size=4, accumulation=2)

    def cut(per_step: int, now: int, before: int) -> tuple[int, int]:
        found = keep_samples_per_step(options, per_step, now, before, "adapted")
        return found.batch_size, found.accumulation

    assert cut(16, 2, 2) == (4, 2)
    assert cut(16, 1, 2) == (4, 4)
    assert cut(16, 4, 2) == (4, 1)
    assert cut(16, 8, 2) == (2, 1)
    with pytest.raises(
        ConfigInvalid, match=r"cannot be divided among 3 processes; go on with one of 1, 2, 4"
    ):
        cut(16, 3, 2)
    with pytest.raises(ConfigInvalid, match="takes 20 samples in an optimiser step"):
        cut(20, 2, 2)
    # Another cut of the same product is the same training.
    assert keep_samples_per_step(TrainOptions(batch_size=8), 8, 1, 1, "adapted").accumulation == 1


def test_another_cut_of_the_same_step_goes_on(make_context, tiny_model_dir, tmp_path):
    straight = make_context(directory=tmp_path / "straight")
    _, expected = run(straight, tiny_model_dir, batch_size=8)
    context = make_context(directory=tmp_path / "cut")
    context.stop_after = 2
    with pytest.raises(Preempted):
        run(context, tiny_model_dir, batch_size=8)
    context.stop_after = None
    _, resumed = run(context, tiny_model_dir, batch_size=2, accumulation=4)
    torch.testing.assert_close(resumed, expected, rtol=0, atol=1e-6)


def test_what_cannot_fit_is_refused_before_the_first_step(make_context, tiny_model_dir, monkeypatch):
    monkeypatch.setattr("tasks.training.preflight.device_memory", lambda device: 2**20)
    context = make_context()
    with pytest.raises(OutOfMemory, match=r"In this order: halve batch_size \(8\).*zero_stage.*precision"):
        run(context, tiny_model_dir)
    assert not context.checkpoints.complete()
    assert any("parameters are trained" in note for note in context.notes)


def test_a_full_disk_is_seen_before_the_first_step(tmp_path: Path) -> None:
    check_disk(tmp_path, 1, "adapted")
    with pytest.raises(Infrastructure, match=r"its checkpoints take up to .* and .* has .* left"):
        check_disk(tmp_path, 2**60, "adapted")


def test_memory_by_part() -> None:
    options = TrainOptions(batch_size=2, zero_stage=2)

    def parts(trained: int, processes: int) -> MemoryParts:
        return memory_parts(
            options, parameters=1000, trained=trained, longest=8, shape=(16, 2, 100), processes=processes
        )

    one, two = parts(1000, 1), parts(1000, 2)
    assert (one.weights, one.gradients, one.optimiser) == (4000, 4000, 8000)
    assert (two.weights, two.gradients, two.optimiser) == (4000, 2000, 4000)
    assert parts(10, 1).optimiser == 80
    assert "optimiser 0 +" in one.in_words()


def test_what_is_kept_beside_the_model_counts() -> None:
    def parts(**options: Any) -> MemoryParts:
        return memory_parts(
            TrainOptions(**options), parameters=1000, trained=1000, longest=8, shape=(16, 4, 100)
        )

    plain = parts()
    assert plain.copies == 0
    assert parts(kl_weight=0.1).copies == 4000
    assert parts(l2_start=0.1, ema=0.9).copies == 8000
    assert parts(kl_weight=0.1, trainable="lora").copies == 0
    assert parts(loss_chunk=1).logits == plain.logits // 64
    assert parts(activation_checkpointing=True).activations < plain.activations / 3


def test_the_device_has_memory() -> None:
    assert device_memory(torch.device("cpu")) > 2**30
