"""Run a program that a model wrote, so that it can do no harm.

Chen et al. 2021 (arXiv:2107.03374), section 2.3, run generated programs in a sandbox of their own. Here it
is a Python process that gives up every right before it runs the program (tasks/evaluate/sandbox_child.py):
no new process, no network, no other file than those of the standard library (read) and of an empty folder
(read and written), no environment, a limit of processor time, memory and the size of a file; it is killed
when its time is up. The kernel enforces this (seccomp and Landlock, without any privilege), so that it
holds in an unprivileged container too. A program has the standard library only, whatever is installed here,
so that it passes anywhere or nowhere. What it writes into its folder is bounded by its processor time and
the size of a file only. Program and judge share a process: one made to cheat its tests could; a model's
mistakes cannot.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.recipe.failures import ConfigInvalid, Infrastructure

CHILD = Path(__file__).with_name("sandbox_child.py")
UNFIT = 97
"""The exit status of a child that could not give up its rights."""
LONGEST = 200
"""Bytes that are read of what a child tells."""
START_SECONDS = 5
"""Wall time for Python to start on a busy machine, on top of the program's own."""
WAITING = 3
"""Wall time that a program gets, in its processor time: one that sleeps uses none."""


@dataclass(frozen=True)
class Limits:
    """What a program may use: seconds of processor time, bytes of memory, bytes of a file."""

    seconds: int = 5
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 24


@dataclass(frozen=True)
class Outcome:
    """How a program ended; `told` is the kind of error, never the program's own output."""

    ended: Literal["passed", "failed", "out of time", "killed"]
    told: str = ""


def run_program(program: str, limits: Limits) -> Outcome:
    """Run a Python program; it passes where it runs to its end without an error.

    A program that leaves by itself (`sys.exit()`, `os._exit()`) before its end has not passed.

    Raises:
        ConfigInvalid: If this machine's kernel cannot take the rights away.
        Infrastructure: If no process can be started.
    """
    word = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as out,  # a pipe could be filled without end; a file has a limit
    ):
        command = [
            *(sys.executable, "-P", "-s", "-S", "-B", str(CHILD)),
            *(str(limits.seconds), str(limits.memory_bytes), str(limits.file_bytes)),
        ]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
        except OSError as error:
            raise Infrastructure(f"cannot start a process for a program: {error}") from error
        try:
            process.communicate(
                f"{word}\n{program}".encode(), timeout=START_SECONDS + WAITING * limits.seconds
            )
        except subprocess.TimeoutExpired:
            return Outcome("out of time", "waited")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        said = out.read(LONGEST).decode(errors="replace")
    if process.returncode == UNFIT:
        raise ConfigInvalid(
            f"programs cannot be run safely on this machine: {said}. Linux 5.19 or newer with Landlock and "
            "seccomp is needed, on x86_64 or aarch64; leave out the sets of programs where there is none"
        )
    if process.returncode == -signal.SIGXCPU:
        return Outcome("out of time", "computed")
    if process.returncode < 0:
        return Outcome("killed", signal.Signals(-process.returncode).name)
    return Outcome("passed") if said == word else Outcome("failed", said.replace(word, ""))
