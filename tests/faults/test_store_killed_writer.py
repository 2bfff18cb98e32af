"""A writer killed in the middle of a commit or of a checkpoint leaves nothing that can be read."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.artefacts import (
    ObjectMissing,
    StoreCheckpoints,
    apply_gc,
    commit,
    digest_of,
    fetch,
    load_manifest,
    open_store,
    plan_gc,
    problems,
)
from tasks.artefacts.artefact import describe

FINGERPRINT = "f" * 64

# Runs an action of the store and stops for good, having said so, the `count`-th time that `function` is
# called: before it runs ("before") or with half of the bytes written ("half").
WRITER = """
import itertools, sys, time
from pathlib import Path
from tasks.artefacts import StoreCheckpoints, commit, local, open_store

action, function, count, how, root = sys.argv[1:]
store, directory = open_store(root + "/store"), Path(root) / "directory"
calls = itertools.count(1)
whole = getattr(local, function, None) or getattr(local.LocalStore, function)

def stopping(*given, **named):
    if next(calls) < int(count):
        return whole(*given, **named)
    if how == "half":
        handle, data = given
        whole(handle, data[: len(data) // 2])
    sys.stdout.write("stopped\\n")  # at once: several threads may stop
    sys.stdout.flush()
    time.sleep(600)

if hasattr(local, function):
    setattr(local, function, stopping)
else:
    setattr(local.LocalStore, function, lambda *given, **named: stopping(*given, **named))
if action == "commit":
    commit(store, directory, kind="model", parents=[], producer="killed", meta={})
else:
    StoreCheckpoints(store, "f" * 64, Path(root) / "work").save(directory, 10)
"""

MOMENTS = [
    pytest.param("write_all", 1, "half", id="in-the-first-file"),
    pytest.param("write_all", 3, "half", id="in-a-later-file"),
    pytest.param("_publish", 1, "before", id="before-the-first-rename"),
    pytest.param("_publish", 3, "before", id="before-a-later-rename"),
    pytest.param("_publish", 4, "before", id="before-the-manifest-is-published"),
    pytest.param("write_all", 4, "half", id="in-the-manifest"),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "directory"
    folder.mkdir()
    for name in ("a.json", "b.safetensors", "c.txt"):
        (folder / name).write_text(name * 1000)
    return folder


def kill_in(action: str, function: str, count: int, how: str, root: Path) -> None:
    command = [sys.executable, "-c", WRITER, action, function, str(count), how, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == "stopped\n"
        finally:
            writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("function", "count", "how"), MOMENTS)
def test_killed_commit(directory: Path, tmp_path: Path, function: str, count: int, how: str) -> None:
    kill_in("commit", function, count, how, tmp_path)
    store = open_store(str(tmp_path / "store"))
    digest = digest_of("model", describe(directory))
    with pytest.raises(ObjectMissing):
        load_manifest(store, digest)
    with pytest.raises(ObjectMissing):
        fetch(store, digest, tmp_path / "cache")
    for stat in store.list("artefacts/"):  # whole files may be there; parts of files may not
        assert store.read(stat.key) == (directory / Path(stat.key).name).read_bytes()
    assert len(list(store.unfinished())) >= 1
    manifest = commit(store, directory, kind="model", parents=[], producer="again", meta={})
    assert manifest.producer == "again"
    assert problems(store, digest) == []
    apply_gc(store, plan_gc(store, {digest}, set(), older_than=timedelta(0)))
    assert list(store.unfinished()) == []
    assert problems(store, digest) == []


def test_what_a_killed_commit_left_is_collected(directory: Path, tmp_path: Path) -> None:
    kill_in("commit", "_publish", 4, "before", tmp_path)
    store = open_store(str(tmp_path / "store"))
    apply_gc(store, plan_gc(store, set(), set(), older_than=timedelta(0)))
    assert list(store.list("")) == []
    assert [name for _, _, names in os.walk(tmp_path / "store") for name in names] == []


@pytest.mark.parametrize(
    ("function", "count"),
    [
        pytest.param("_publish", 2, id="among-the-files"),
        pytest.param("_publish", 4, id="before-the-manifest"),
        pytest.param("_publish", 5, id="before-COMPLETE"),
    ],
)
def test_killed_checkpoint(directory: Path, tmp_path: Path, function: str, count: int) -> None:
    store = open_store(str(tmp_path / "store"))
    checkpoints = StoreCheckpoints(store, FINGERPRINT, tmp_path / "work")
    checkpoints.save(directory, 5)
    kill_in("checkpoint", function, count, "before", tmp_path)
    found = checkpoints.newest()
    assert found is not None
    assert found[1] == 5
    assert describe(found[0]) == describe(directory)
    assert checkpoints.recorded() == 5
    checkpoints.save(directory, 10)
    again = checkpoints.newest()
    assert again is not None
    assert again[1] == 10


def test_a_checkpoint_killed_after_complete_counts(directory: Path, tmp_path: Path) -> None:
    kill_in("checkpoint", "_publish", 6, "before", tmp_path)  # the sixth is progress.json
    checkpoints = StoreCheckpoints(open_store(str(tmp_path / "store")), FINGERPRINT, tmp_path / "work")
    found = checkpoints.newest()
    assert found is not None
    assert found[1] == checkpoints.recorded() == 10
