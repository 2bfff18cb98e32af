"""Counts what a step takes while it works, in the store, so that a killed attempt still counts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from tasks.artefacts import Store
from tasks.recipe.failures import PerennialError
from tasks.recipe.plan import Plan, PlannedStep
from tasks.release.spending import (
    Spent,
    StepSpending,
    attempts_key,
    read_carried,
    read_spending,
    spent_at,
    write_spending,
)
from tasks.runner import ranks

TICK_SECONDS = 10.0
"""How often it is written down."""


class Meter:
    """Runs from when it is made.

    Attributes:
        attempts: Starts of this work so far, this one included.
        carried: What earlier runs spent on it.
        before: What earlier attempts spent on it, those of this run included.
        longest_write: Seconds that it took at most to write it down.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        step: PlannedStep,
        fingerprint: str,
        on_tick: Callable[[], float] = lambda: TICK_SECONDS,
    ) -> None:
        """Start to count.

        Args:
            store: Where it is kept.
            plan: The plan of the run, with the rates.
            step: The step as it runs.
            fingerprint: The step's: the same work in another run goes on counting.
            on_tick: Called at every tick; gives the seconds to the next.
        """
        self._store = store
        self._plan = plan
        self._step = step
        self._fingerprint = fingerprint
        self._on_tick = on_tick
        self._devices = ranks.world_size()
        known = read_carried(store, fingerprint)
        self.attempts = known.attempts + 1
        self.before = known.spent
        mine = [each for each in read_spending(store, plan.run) if each.fingerprint == fingerprint]
        self.carried = mine[0].carried if mine and known.attempts else self.before
        self.longest_write = 0.0
        self._start = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    @property
    def spent(self) -> Spent:
        """Over all attempts, by now."""
        rate = self._plan.rates.get(self._step.resources)
        return self.before + spent_at(rate, (time.monotonic() - self._start) * self._devices)

    def __enter__(self) -> Meter:
        self._write("running")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._write("ended")

    def finish(self, spent: Spent) -> None:
        """The work is done and has a record that says what it took: the next time it starts at nothing."""
        self._write("ended", spent)
        self._store.delete(attempts_key(self._fingerprint))

    def _tick(self) -> None:
        seconds = 0.0
        while not self._done.wait(seconds):
            seconds = TICK_SECONDS
            with contextlib.suppress(PerennialError):  # a store that is away for a moment ends no training
                seconds = self._on_tick()
                self._write("running")

    def _write(self, state: Literal["running", "ended"], spent: Spent | None = None) -> None:
        began = time.monotonic()
        write_spending(
            self._store,
            StepSpending(
                run=self._plan.run,
                step=self._step.name,
                fingerprint=self._fingerprint,
                resources=self._step.resources,
                devices=self._devices,
                attempts=self.attempts,
                state=state,
                spent=spent or self.spent,
                carried=self.carried,
                written=datetime.now(UTC).isoformat(),
            ),
        )
        self.longest_write = max(self.longest_write, time.monotonic() - began)
