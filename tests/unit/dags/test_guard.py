"""The guard: exit codes, time for a checkpoint, no orphan of a killed starter, no two attempts at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

GUARD = Path(__file__).resolve().parents[3] / "dags" / "runtimes" / "guard.py"

CHECKPOINTS = """
import signal, sys, time
def stop(*_):
    open(sys.argv[1], "w").write("saved")
    print("saved", flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(30)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(30)
"""


def start(tmp_path: Path, code: str, *arguments: str, grace: float = 5.0) -> subprocess.Popen[bytes]:
    lock = tmp_path / "locks" / "step.lock"
    command = [sys.executable, "-I", "-S", str(GUARD), "--lock", str(lock), "--grace", str(grace), "--"]
    return subprocess.Popen(
        [*command, sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def ready(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdout is not None
    assert guard.stdout.readline() == b"ready\n"


def finish(guard: subprocess.Popen[bytes]) -> bytes:
    """Its output to the end. Not `communicate`: that closes standard input, which asks the guard to stop."""
    assert guard.stdout is not None
    output = guard.stdout.read()
    guard.wait()
    return output


def eventually(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("code", [0, 2, 8])
def test_the_commands_exit_code_and_output_are_handed_on(tmp_path: Path, code: int) -> None:
    guard = start(tmp_path, f"print('héllo', flush=True); raise SystemExit({code})")
    output = finish(guard)
    assert guard.returncode == code
    assert output.decode() == "héllo\n"


def test_a_command_killed_by_a_signal_gives_128_and_the_signal(tmp_path: Path) -> None:
    guard = start(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    finish(guard)
    assert guard.returncode == 128 + signal.SIGKILL


def test_sigterm_gives_the_command_time_for_its_checkpoint(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    guard = start(tmp_path, CHECKPOINTS, str(saved))
    ready(guard)
    guard.send_signal(signal.SIGTERM)
    output = finish(guard)
    assert guard.returncode == 5
    assert b"saved" in output
    assert saved.read_text() == "saved"


def test_a_command_that_does_not_stop_is_killed_after_the_grace(tmp_path: Path) -> None:
    guard = start(tmp_path, STUBBORN, grace=0.3)
    ready(guard)
    guard.send_signal(signal.SIGTERM)
    finish(guard)
    assert guard.returncode == 128 + signal.SIGKILL


def test_a_starter_that_is_gone_stops_the_command_and_its_checkpoint_is_written(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    guard = start(tmp_path, CHECKPOINTS, str(saved))
    ready(guard)
    assert guard.stdin is not None
    assert guard.stdout is not None
    guard.stdout.close()  # nobody reads its words any more either
    guard.stdin.close()
    assert guard.wait() == 5
    assert saved.read_text() == "saved"


def test_what_the_command_leaves_behind_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    leaves = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); open(sys.argv[1], 'w').write(str(p.pid))"
    )
    finish(start(tmp_path, leaves, str(pid)))

    def gone() -> bool:
        status = Path(f"/proc/{pid.read_text()}/stat")
        return not status.exists() or status.read_text().split()[2] == "Z"

    assert eventually(gone)


def test_a_second_attempt_waits_until_the_first_has_ended_even_if_its_guard_was_killed(
    tmp_path: Path,
) -> None:
    first = start(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(30)")
    assert first.stdout is not None
    orphan = int(first.stdout.readline())
    first.kill()
    first.wait()
    second = start(tmp_path, "print('second', flush=True)")
    assert second.stdout is not None
    assert b"waiting for an earlier attempt" in second.stdout.readline()
    assert second.poll() is None
    os.killpg(orphan, signal.SIGKILL)
    output = finish(second)
    assert output == b"second\n"
    assert second.returncode == 0
