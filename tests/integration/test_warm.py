"""The quick Python of warm.py behaves as a Python that is started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import warm

pytestmark = pytest.mark.slow

TELLS = """
import json, os, sys
print("a word", file=sys.stderr)
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "name": __name__, "pid": os.getpid(),
    "value": os.environ.get("VALUE"), "home": os.environ.get("HOME"), "stdin": sys.stdin.read(),
    "hash": hash("a"), "torch": "torch" in sys.modules, "python": sys.executable}))
sys.exit(int(os.environ.get("CODE", "0")))
"""
WAITS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "tells.py"
    path.write_text(TELLS)
    return path


def told(python: str, *command: str, **more: Any) -> tuple[dict[str, Any], str, int]:
    done = subprocess.run([python, *command], capture_output=True, text=True, check=False, **more)
    return json.loads(done.stdout), done.stderr, done.returncode


@pytest.mark.parametrize("python", [warm.python, lambda: sys.executable], ids=["warm", "fresh"])
def test_it_gets_what_it_was_given_and_its_code_comes_back(python: Any, script: Path, tmp_path: Path) -> None:
    environment = {"VALUE": "1 ü", "CODE": "3", "PATH": os.environ["PATH"]}
    found, errors, code = told(
        python(), str(script), "--a", "b c", env=environment, cwd=tmp_path, input="some words"
    )
    assert (errors, code) == ("a word\n", 3)
    assert found["argv"] == ["--a", "b c"]
    assert (found["name"], found["cwd"], found["stdin"]) == ("__main__", str(tmp_path), "some words")
    assert (found["value"], found["home"]) == ("1 ü", None)


def test_it_is_quick_because_it_has_imported_before(script: Path) -> None:
    assert told(warm.python(), str(script))[0]["torch"]
    assert not told(sys.executable, str(script))[0]["torch"]


def test_two_processes_share_nothing_and_two_servers_have_other_hashes(script: Path) -> None:
    one, two, other = (told(warm.python(seed), str(script))[0] for seed in (1, 1, 2))
    assert one["pid"] != two["pid"]
    assert one["hash"] == two["hash"] != other["hash"]


def test_what_it_starts_is_as_quick(script: Path) -> None:
    assert told(warm.python(), str(script))[0]["python"] == warm.python()


def test_a_module_runs_as_with_python_m() -> None:
    done = subprocess.run(
        [warm.python(), "-m", "tasks.cli", "check", "no-such-recipe.yaml"],
        cwd=warm.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no-such-recipe.yaml" in done.stderr


def test_an_error_is_told_and_its_code_is_1(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("raise ValueError('wrong')")
    done = subprocess.run(
        [warm.python(), str(tmp_path / "fails.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: wrong\n")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 5), (signal.SIGKILL, -signal.SIGKILL)],  # SIGINT may be ignored in all that starts here
)
def test_a_signal_reaches_it_and_nothing_is_left(number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    started = subprocess.Popen(
        [warm.python(), str(tmp_path / "waits.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    process = psutil.Process(int(started.stdout.readline()))
    started.send_signal(number)
    started.communicate()
    assert started.returncode == code
    until = time.monotonic() + 60
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.01)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_one_that_kills_itself_ends_as_killed(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert subprocess.run([warm.python(), str(tmp_path / "dies.py")], check=False).returncode == -9


def test_other_forms_and_cold_ones_are_started_anew(script: Path) -> None:
    code = "import sys; print('torch' in sys.modules)"
    done = subprocess.run([warm.python(), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert not told(warm.python(cold="alone"), str(script), "alone")[0]["torch"]
    assert told(warm.python(cold="alone"), str(script), "together")[0]["torch"]
