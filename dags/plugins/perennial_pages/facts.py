"""What the pages show, from `perennial` commands, kept for a moment: a command takes seconds to start."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runtimes.process import answer

KEPT_SECONDS = 20.0


@dataclass
class Kept:
    """Answers of commands by their arguments; one command of a kind runs at a time.

    Attributes:
        ask: Runs a command and gives what it prints.
        seconds: How long an answer counts.
    """

    ask: Callable[..., str] = answer
    seconds: float = KEPT_SECONDS
    _answers: dict[tuple[str, ...], tuple[float, str]] = field(default_factory=dict)
    _locks: dict[tuple[str, ...], threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, *arguments: str) -> str:
        """The answer of a command, from the last seconds if there is one; raises as the command does."""
        with self._lock:
            lock = self._locks.setdefault(arguments, threading.Lock())
        with lock:
            at, text = self._answers.get(arguments, (float("-inf"), ""))
            if time.monotonic() - at > self.seconds:
                text = self.ask(*arguments)
                self._answers[arguments] = (time.monotonic(), text)
                self._forget()
            return text

    def json(self, *arguments: str) -> dict[str, Any]:
        """The same, where the command prints a JSON object."""
        found: dict[str, Any] = json.loads(self.get(*arguments))
        return found

    def drop(self) -> None:
        """Ask anew from now on: something is about to change."""
        self._answers.clear()

    def _forget(self) -> None:
        """Keep no more than a few answers: reports are large."""
        for old in sorted(list(self._answers), key=lambda each: self._answers[each][0])[:-16]:
            self._answers.pop(old, None)
            self._locks.pop(old, None)


facts = Kept()
