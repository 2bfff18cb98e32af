"""One step as a process: signals, the log kept beside the record, the termination file, the exit code."""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from tasks.artefacts import Store, open_store
from tasks.recipe.failures import (
    ConfigInvalid,
    Failure,
    Infrastructure,
    OutOfMemory,
    PerennialError,
    Preempted,
)
from tasks.recipe.plan import Plan
from tasks.recipe.secrets import mask
from tasks.recipe.uris import ALLOWED, refusal
from tasks.runner import logbook, ranks
from tasks.runner.relief import failure_key
from tasks.runner.settings import Settings
from tasks.runner.settings import settings as own_settings
from tasks.runner.step import Attempt, find_step, run_step

TAIL_LINES = 200
TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes reads a container's last words; `PERENNIAL_TERMINATION_LOG` names another file."""

TERMINATION_BYTES = 4096
"""What Kubernetes keeps of them."""


def read_plan(uri: str) -> tuple[Plan, Store]:
    """Read a frozen plan and open the store it lies in.

    Raises:
        ConfigInvalid: The URI is not `<store>/runs/<run>/plan.json`, or the installation may not read there.
    """
    store_uri, found, rest = uri.rpartition("/runs/")
    if not found or not rest.endswith("/plan.json"):
        raise ConfigInvalid(f"'{uri}' is not the URI of a plan: expected <store>/runs/<run>/plan.json")
    if os.environ.get(ALLOWED) and store_uri != own_settings().store and (words := refusal(uri)):
        raise ConfigInvalid(f"{words}; plans are read from PERENNIAL_STORE too")
    store = open_store(store_uri)
    return Plan.from_bytes(store.read(f"runs/{rest}")), store


def step_process(plan_uri: str, name: str, settings: Settings, *, fresh: bool) -> int:
    """Run one step to its end and return the exit code of its class of failure."""
    plan, store = read_plan(plan_uri)
    first = ranks.rank() == 0
    attempt = Attempt(
        settings=settings,
        store=store if first else ranks.ReadOnly(store),
        fresh=fresh,
        say=(lambda line: print(line, flush=True)) if first else (lambda _: None),
        interrupt=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    _stop_on_sigterm(attempt)
    failure: Failure | None = None
    message = ""
    with _kept_output() as tail:
        try:
            run_step(plan, name, attempt)
        except BaseException as error:  # noqa: BLE001  the rim: every failure becomes an exit code
            if not ranks.is_done(error):
                failure, message = classify(error)
                message = mask(message)
                if failure is Failure.BUG:
                    traceback.print_exc()
                said = failure.name.lower().replace("_", " ")
                print(f"{name}: {said}: {message}", file=sys.stderr, flush=True)
    echo = failure is not None and ranks.is_echo(failure)
    if failure is not None:
        words: dict[str, Any] = {
            "step": name,
            "failure": failure.name,
            "message": message,
            "tail": list(tail),
            "attempt": os.environ.get("PERENNIAL_ATTEMPT", ""),
            "fingerprint": attempt.fingerprint,
        }
        _last_words(words, keep=echo)
        if not echo:
            with contextlib.suppress(PerennialError, OSError):  # the store may be what failed
                store.write(failure_key(plan.run, name), json.dumps(words, indent=1).encode())
    if first:
        with contextlib.suppress(PerennialError, OSError):
            store.write(f"runs/{plan.run}/logs/{name}.log", "\n".join([*tail, ""]).encode())
    if failure is not None and (first or not echo):
        with contextlib.suppress(PerennialError):  # MLflow may be what failed, and the exit code says enough
            if not (echo and ranks.is_told(store, plan.run, name, os.environ.get("PERENNIAL_ATTEMPT", ""))):
                logbook.log_failure(plan, find_step(plan, name), failure, message, store)
    return 0 if failure is None else int(failure)


def classify(error: BaseException) -> tuple[Failure, str]:
    """The class of a failure and its message.

    An error that is not ours is a bug, but for the three that the platform raises: memory, disk, interrupt.
    """
    if isinstance(error, PerennialError):
        return error.failure, str(error)
    if ranks.lost_another(error):
        return Preempted.failure, f"lost another rank, or its machine: {error}; a retry resumes all of them"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory.failure, f"out of memory: {error}; lower the step's batch_size, then its lengths"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" at {error.filename}" if error.filename else ""
        return (
            Infrastructure.failure,
            f"the disk is full{where}: free space, then retry; nothing was half written",
        )
    if isinstance(error, KeyboardInterrupt):
        return Preempted.failure, "interrupted"
    return Failure.BUG, f"{type(error).__name__}: {error}"


def _stop_on_sigterm(attempt: Attempt) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        attempt.stop.set()
        # A method that asks `stopping()` writes its checkpoint and ends by itself; any other ends here.
        if attempt.context is None or not attempt.context.cooperative:
            raise Preempted("stopped by SIGTERM; a retry starts this step again")

    signal.signal(signal.SIGTERM, handle)


@contextlib.contextmanager
def _kept_output() -> Iterator[collections.deque[str]]:
    """Copy everything that this process and its children print into a ring of the last lines, masked."""
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(writing)

    def copy() -> None:
        with os.fdopen(reading, "rb") as pipe:
            for line in pipe:
                text = mask(line.decode("utf-8", "replace"))
                tail.append(text.rstrip("\n"))
                os.write(saved[0], text.encode())

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield tail
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        # A child that outlives the step may still hold the pipe, so the wait has an end.
        thread.join(timeout=5)


def _last_words(words: Mapping[str, Any], *, keep: bool = False) -> None:
    """Tell whoever started the container; what Kubernetes would cut off is left out, oldest lines first.

    Args:
        words: To tell.
        keep: Let what another rank of this container has told stand.
    """
    named = os.environ.get("PERENNIAL_TERMINATION_LOG")
    path = Path(named or TERMINATION_LOG)
    if not named and not (path.exists() and os.access(path, os.W_OK)):
        return
    if keep and path.exists() and path.stat().st_size:
        return
    told = dict(words) | {"message": str(words["message"])[:1500]}
    while len(json.dumps(told)) > TERMINATION_BYTES and told["tail"]:
        told["tail"] = told["tail"][1:]
    path.write_text(json.dumps(told), encoding="ascii")
