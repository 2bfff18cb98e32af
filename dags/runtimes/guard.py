"""Runs one command in a process group of its own and outlives whoever started it.

Airflow gives a task five seconds between SIGTERM and SIGKILL, too few for a checkpoint, and a task that is
killed outright cannot stop anything. So the command runs under this guard. When the starter asks (SIGTERM) or
is gone (its end of standard input closes), the group gets SIGTERM, time for its checkpoint, then SIGKILL. A
lock that the command inherits keeps a retry waiting until the last process of the attempt before has ended:
two attempts of one step never run at once.

    python guard.py --lock PATH --grace SECONDS -- COMMAND...

The standard library alone, so that it starts in a few milliseconds. Exits with the command's code, or
128 + n where signal n ended it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

POLL_SECONDS = 0.1

_asked = threading.Event()


def main(argv: list[str]) -> int:
    """Run the command; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lock", required=True)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.makedirs(os.path.dirname(arguments.lock), exist_ok=True)
    with open(arguments.lock, "a", encoding="utf-8") as lock:
        if not _acquire(lock.fileno()):
            return 128 + signal.SIGTERM
        child = subprocess.Popen(
            arguments.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
        pump = threading.Thread(target=_pump, args=(child,), daemon=True)
        pump.start()
        code = _watch(child, arguments.grace)
        _signal(child, signal.SIGKILL)  # what the command left behind must not hold the lock or the device
        pump.join()
    return code if code >= 0 else 128 - code


def _ask(_number: int, _frame: FrameType | None) -> None:
    _asked.set()


def _stop_wanted() -> bool:
    """True once SIGTERM came or nobody holds the other end of standard input any more."""
    if _asked.is_set():
        return True
    readable, _, _ = select.select([0], [], [], POLL_SECONDS)
    return bool(readable) and os.read(0, 4096) == b""


def _acquire(lock: int) -> bool:
    """Wait for the lock; False where the starter gave up first."""
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not told:
                print("waiting for an earlier attempt of this step to end", flush=True)
                told = True
            if _stop_wanted():
                return False


def _watch(child: subprocess.Popen[bytes], grace: float) -> int:
    while child.poll() is None:
        if _stop_wanted():
            _signal(child, signal.SIGTERM)
            until = time.monotonic() + grace
            while child.poll() is None and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
            if child.poll() is None:
                _signal(child, signal.SIGKILL)
            return child.wait()
    return child.returncode


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _pump(child: subprocess.Popen[bytes]) -> None:
    """Hand the output on; when nobody reads any more, go on reading, so that the command is not blocked."""
    assert child.stdout is not None
    heard = True
    for line in child.stdout:
        if heard:
            try:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            except OSError:
                heard = False


if __name__ == "__main__":
    # os._exit: a broken standard output must not change the exit code while Python shuts down.
    os._exit(main(sys.argv[1:]))
