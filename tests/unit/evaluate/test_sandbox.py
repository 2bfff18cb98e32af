"""What a generated program must not do, it cannot do; what it may do, it can."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.evaluate import sandbox
from tasks.evaluate.sandbox import Limits, Outcome, run_program
from tasks.recipe.failures import ConfigInvalid

LIMITS = Limits(memory_bytes=256 << 20, file_bytes=1 << 20)
QUICK = replace(LIMITS, seconds=1)


def run(program: str, limits: Limits = LIMITS) -> Outcome:
    return run_program(program, limits)


@pytest.fixture(scope="module", autouse=True)
def needs_the_kernel() -> None:
    try:
        run("")
    except ConfigInvalid as error:
        pytest.skip(f"the sandbox's tests are left out: {error}")


@pytest.mark.parametrize(
    "program",
    [
        "x = 1",
        "import json, decimal, re, math, itertools, collections, heapq, datetime, dataclasses",
        "import hashlib, ssl, lzma, sqlite3, ctypes, zoneinfo, unittest, asyncio, urllib.request",
        "open('note.txt', 'w').write('x')\nassert open('note.txt').read() == 'x'",
        "import os\nopen('a', 'w').close()\nos.rename('a', 'b')\nos.remove('b')",
        "import os\nopen(os.devnull, 'w').write('x')",
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
        "import sys\nprint('x' * 10_000_000)\nsys.stderr.write('y')",
        "import os, sys\nassert not os.environ and os.listdir() == [] and sys.stdin.read() == ''",
        "assert [*{'b', 'a', 'c'}] == [*{'b', 'a', 'c'}]",
    ],
)
def test_what_a_program_may_do(program):
    assert run(program) == Outcome("passed")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def broken(:", "SyntaxError"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os\nos._exit(0)", ""),
        ("import numpy", "ModuleNotFoundError"),
        ("import tasks", "ModuleNotFoundError"),
        ("import os\nwhile True:\n    os.mkdir('a')\n    os.chdir('a')", "PermissionError"),
    ],
)
def test_only_a_program_that_runs_to_its_end_has_passed(program, error):
    assert run(program) == Outcome("failed", error)


def test_an_endless_loop_is_stopped_and_one_that_sleeps_too(monkeypatch):
    assert run("while True: pass", QUICK) == Outcome("out of time", "computed")
    monkeypatch.setattr(sandbox, "START_SECONDS", 1)
    monkeypatch.setattr(sandbox, "WAITING", 1)
    assert run("import time\ntime.sleep(600)", QUICK) == Outcome("out of time", "waited")


def test_one_that_will_not_hear_the_time_limit_is_killed():
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(deaf, QUICK) == Outcome("killed", "SIGKILL")


@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import multiprocessing as m\nm.get_context('spawn').Process(target=print).start()",
        "import os\nos.execv('/bin/true', ['true'])",
        "import ctypes\nassert ctypes.CDLL(None).vfork() >= 0",
        "import ctypes\nassert ctypes.CDLL(None).syscall(435, 0, 0) >= 0",
    ],
)
def test_a_fork_bomb_makes_no_process(bomb):
    outcome = run(bomb)
    assert outcome.ended == "failed"
    assert outcome.told in {"PermissionError", "AssertionError"}


def test_threads_without_end_stop_at_the_memory_limit():
    outcome = run(
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()"
    )
    assert outcome == Outcome("failed", "RuntimeError")


def test_ten_gigabytes_are_refused():
    assert run("x = bytearray(10 * 2**30)") == Outcome("failed", "MemoryError")


@pytest.mark.parametrize(
    "program",
    [
        "import socket\nsocket.socket()",
        "import socket\nsocket.socketpair()",
        "import socket\nsocket.create_connection(('127.0.0.1', 80), 1)",
        "import http.client\nhttp.client.HTTPConnection('127.0.0.1').connect()",
    ],
)
def test_there_is_no_network(program):
    assert run(program) == Outcome("failed", "PermissionError")


@pytest.mark.parametrize(
    "program",
    [
        "open('/proc/PARENT/environ').read()",
        "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
        "open('/proc/self/environ').read()",
        "import os\nos.listdir('/')",
        "open('/etc/passwd').read()",
        f"open({str(Path(__file__))!r}).read()",
        "import os\nos.kill(os.getppid(), 9)",
        "import ctypes\nassert ctypes.CDLL(None).ptrace(16, __import__('os').getppid(), 0, 0) == 0",
    ],
)
def test_the_parent_its_environment_and_its_files_are_out_of_reach(program, monkeypatch):
    monkeypatch.setenv("PERENNIAL_SECRET", "shh")
    outcome = run(program.replace("PARENT", str(os.getpid())))
    assert outcome.ended == "failed"
    assert outcome.told in {"PermissionError", "AssertionError"}


def test_nothing_is_written_outside_the_folder(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("kept")
    for attempt in (
        f"open({str(mine)!r}, 'w')",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"import os\nos.unlink({str(mine)!r})",
        f"import os\nos.rename({str(mine)!r}, 'here')",
        f"import os\nos.chmod({str(mine)!r}, 0)",
        f"import os\nos.truncate({str(mine)!r}, 0)",
        f"import ctypes\nassert ctypes.CDLL(None).fchmodat(-100, {str(mine).encode()!r}, 0, 0) == 0",
        f"import ctypes\nassert ctypes.CDLL(None).fchownat(-100, {str(mine).encode()!r}, 1, 1, 0) == 0",
        f"import os\nos.symlink({str(mine)!r}, 'link')\nopen('link', 'a').write('more')",
        f"import os\nos.link({str(mine)!r}, 'link')",
        f"import os\nos.utime({str(mine)!r}, (0, 0))",
    ):
        assert run(attempt).ended == "failed", attempt
    assert mine.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert mine.stat().st_mtime > 0


def test_a_file_without_end_stops_at_its_limit():
    assert run("f = open('big', 'wb', 0)\nwhile True: f.write(bytes(2**20))") == Outcome("failed", "OSError")


def test_the_folder_is_gone_afterwards_and_nothing_runs_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run("open('left', 'w').write('x')").ended == "passed"
    assert list(tmp_path.iterdir()) == []
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sandbox_child" not in running


def test_a_machine_without_landlock_is_refused_with_a_remedy(monkeypatch, tmp_path):
    """A kernel that has no such call says so, and then nothing of the program runs."""
    child = (
        Path(sandbox.CHILD).read_text().replace("LANDLOCK = (444, 445, 446)", "LANDLOCK = (9444, 445, 446)")
    )
    other = tmp_path / "child.py"
    other.write_text(child)
    monkeypatch.setattr(sandbox, "CHILD", other)
    with pytest.raises(ConfigInvalid, match="Landlock: Function not implemented"):
        run("open('/tmp/should-not-be', 'w')")
    assert not Path("/tmp/should-not-be").exists()
