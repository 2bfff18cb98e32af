"""Several processes of one step: one writes, the others end quietly, the first failure is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tasks.artefacts import Store, open_store
from tasks.recipe.failures import Failure, Preempted
from tasks.runner import process, ranks
from tasks.runner.context import Context
from tasks.runner.relief import failure_key
from tasks.stage import Method, Options, Port, Result


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def second_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_ranks_after_the_first_read_the_store_and_write_nothing(store: Store, tmp_path: Path) -> None:
    store.write("runs/r/plan.json", b"{}")
    seen = ranks.ReadOnly(store)
    assert seen.read("runs/r/plan.json") == b"{}"
    assert seen.write("records/x.json", b"1")
    (tmp_path / "file").write_bytes(b"1")
    seen.upload("objects/x", tmp_path / "file", "0")
    seen.delete("runs/r/plan.json")
    assert [stat.key for stat in store.list("")] == ["runs/r/plan.json"]
    assert [stat.key for stat in seen.list("runs/")] == ["runs/r/plan.json"]


def test_what_all_ranks_decide_alike_is_written_by_each(store: Store) -> None:
    """A rank that came to the new options before rank 0 wrote them down would otherwise keep the old ones."""
    ranks.ReadOnly(store).write("relief/f.json", b"{}")
    assert store.read("relief/f.json") == b"{}"


@pytest.mark.usefixtures("second_rank")
def test_ranks_that_share_a_scratch_directory_do_not_touch_each_others_outputs(
    store: Store, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    (work / "outputs" / "log").mkdir(parents=True)
    (work / "outputs" / "log" / "training.jsonl").write_text("rank 0's")
    method = Method(
        summary="", options=Options, inputs={"text": Port(("documents",))}, outputs={"log": "documents"},
        run=lambda context, options: Result(figure=""),
    )  # fmt: skip
    context = Context(
        step="s", seed=0, work=work, cache=tmp_path / "cache", inputs={}, checkpoints=None,  # type: ignore[arg-type]
        fresh=False, method=method, store=store, progress_key="p", stop=None, say=print,  # type: ignore[arg-type]
    )  # fmt: skip
    assert (work / "outputs" / "log" / "training.jsonl").read_text() == "rank 0's"
    assert context.output("log") == work / "outputs-1" / "log"
    context.metric("loss", 1.0, 1)
    assert not (work / "points.jsonl").exists()


@pytest.mark.usefixtures("second_rank")
def test_a_rank_that_has_no_more_to_do_ends_well() -> None:
    assert ranks.is_done(SystemExit(0))
    assert not ranks.is_done(SystemExit(3))


def test_the_first_rank_never_leaves_before_the_end() -> None:
    assert not ranks.is_done(SystemExit(0))


class DistBackendError(RuntimeError):
    """What torch raises is called so."""


CLOSED = "[../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [10.0.0.7]:4711"


class Group:
    """Stands for torch.distributed, in a group or not yet."""

    def __init__(self, initialised: bool) -> None:
        self.initialised = initialised

    def is_initialized(self) -> bool:
        return self.initialised


@pytest.mark.usefixtures("second_rank")
@pytest.mark.parametrize(
    ("error", "initialised", "failure"),
    [
        (RuntimeError(CLOSED), True, Failure.PREEMPTED),
        (DistBackendError("NCCL error: ncclRemoteError: a call failed"), True, Failure.PREEMPTED),
        (DistBackendError("Watchdog caught collective operation timeout"), True, Failure.PREEMPTED),
        (DistBackendError("ncclInvalidUsage: wrong dtype"), True, Failure.BUG),
        (RuntimeError("shapes cannot be multiplied"), True, Failure.BUG),
        (RuntimeError(CLOSED), False, Failure.BUG),
    ],
)
def test_p6_a_rank_that_lost_another_is_preempted_and_not_a_bug(
    error: Exception, initialised: bool, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.distributed", Group(initialised))
    assert process.classify(error)[0] is failure


def test_alone_a_closed_connection_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.distributed", Group(True))
    assert process.classify(RuntimeError(CLOSED))[0] is Failure.BUG


@pytest.mark.usefixtures("second_rank")
def test_p4_ranks_that_are_stopped_do_not_write_over_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "termination"
    monkeypatch.setenv("PERENNIAL_TERMINATION_LOG", str(file))
    cause = {"failure": "OUT_OF_MEMORY", "message": "rank 1", "tail": []}
    process._last_words(cause)
    assert ranks.is_echo(Preempted.failure)
    process._last_words({"failure": "PREEMPTED", "message": "stopped", "tail": []}, keep=True)
    assert json.loads(file.read_text()) == cause


def test_a_process_alone_has_nobody_to_echo() -> None:
    assert not ranks.is_echo(Preempted.failure)


def test_only_words_of_this_attempt_count_as_told(store: Store) -> None:
    store.write(failure_key("r", "s"), json.dumps({"failure": "BUG", "attempt": "one"}).encode())
    assert ranks.is_told(store, "r", "s", "one")
    assert not ranks.is_told(store, "r", "s", "two")
    assert not ranks.is_told(store, "r", "s", "")
