"""A step as a process: classes of failure, the kept output, the last words."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Diverged, Failure, Infrastructure, Preempted
from tasks.runner import process


class OutOfMemoryError(RuntimeError):
    """What torch raises is called so."""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ConfigInvalid("no"), Failure.CONFIG_INVALID),
        (DataInvalid("no"), Failure.DATA_INVALID),
        (Preempted("no"), Failure.PREEMPTED),
        (Infrastructure("no"), Failure.INFRASTRUCTURE),
        (Diverged("no"), Failure.DIVERGED),
        (MemoryError(), Failure.OUT_OF_MEMORY),
        (OutOfMemoryError("CUDA"), Failure.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), Failure.INFRASTRUCTURE),
        (KeyboardInterrupt(), Failure.PREEMPTED),
        (ZeroDivisionError("x"), Failure.BUG),
        (OSError(errno.EPERM, "no"), Failure.BUG),
    ],
)
def test_every_error_has_its_class(error: BaseException, failure: Failure) -> None:
    assert process.classify(error)[0] is failure


def test_a_full_disk_is_told_with_its_place() -> None:
    message = process.classify(OSError(errno.ENOSPC, "No space left on device", "/data/x"))[1]
    assert "disk is full" in message
    assert "/data/x" in message


def test_what_a_child_prints_is_kept_too_and_still_shown(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "from tasks.runner.process import _kept_output\n"
        "with _kept_output() as tail:\n"
        "    print('ours', flush=True)\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"the child\")'], check=True)\n"
        "    print('to stderr', file=sys.stderr)\n"
        "print('kept', list(tail))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kept ['ours', 'the child', 'to stderr']" in done.stdout
    assert done.stdout.startswith("ours\nthe child\nto stderr\n")


def test_the_last_words_go_to_the_file_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "termination"
    monkeypatch.setenv("PERENNIAL_TERMINATION_LOG", str(file))
    process._last_words({"failure": "DATA_INVALID", "message": "bad"})
    assert json.loads(file.read_text()) == {"failure": "DATA_INVALID", "message": "bad"}


def test_last_words_that_are_too_long_lose_their_oldest_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "termination"
    monkeypatch.setenv("PERENNIAL_TERMINATION_LOG", str(file))
    words = {"failure": "BUG", "message": "\u00e4" * 9, "tail": [f"line {number}" for number in range(2000)]}
    process._last_words(words)
    told = json.loads(file.read_text())
    assert file.stat().st_size <= process.TERMINATION_BYTES
    assert told["message"] == words["message"]
    assert told["tail"][-1] == "line 1999"
    assert len(told["tail"]) > 200


@pytest.mark.parametrize("uri", ["plan.json", "file:///store/runs/x/other.json", "s3://bucket/plan.json"])
def test_what_is_no_plan_is_refused(uri: str) -> None:
    with pytest.raises(ConfigInvalid, match="not the URI of a plan"):
        process.read_plan(uri)


def test_a_plan_that_is_not_there_is_told_without_a_traceback(tmp_path: Path) -> None:
    plan = f"file://{tmp_path}/runs/x/plan.json"
    done = subprocess.run(
        [sys.executable, "-m", "tasks.cli", "step", "--plan", plan, "--step", "a"],
        env=os.environ | {"PERENNIAL_HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Failure.INFRASTRUCTURE
    assert "runs/x/plan.json" in done.stderr
    assert "Traceback" not in done.stderr
