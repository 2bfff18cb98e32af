"""What the steps of a run take, written down while they work: device seconds, cost and energy.

`runs/<run>/spending/<step>/<fingerprint>.json` is kept for good; `attempts/<fingerprint>.json` lives from a
step's first attempt until its record is written, so that the next attempt, in this run or another, goes on
counting where the last one was killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.artefacts import Store
from tasks.recipe.plan import Rate

ALIVE_SECONDS = 60.0
"""A step that is said to run and has written nothing for so long is dead, and takes nothing any more."""


class Spent(BaseModel):
    """What work took.

    Attributes:
        device_seconds: Seconds of devices, all attempts and devices together.
        cost: In the currency of the price table; None where a price is not known.
        energy_kwh: An estimate, from the table's watts; None where they are not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device_seconds: float = 0.0
    cost: float | None = 0.0
    energy_kwh: float | None = 0.0

    @property
    def device_hours(self) -> float:
        """The same in hours."""
        return self.device_seconds / 3600

    def __add__(self, other: Spent) -> Spent:
        """Both together; what is not known of one is not known of the sum."""
        return Spent(
            device_seconds=self.device_seconds + other.device_seconds,
            cost=_sum(self.cost, other.cost),
            energy_kwh=_sum(self.energy_kwh, other.energy_kwh),
        )

    def __sub__(self, other: Spent) -> Spent:
        """This without the other, which is part of it."""
        return Spent(
            device_seconds=max(0.0, self.device_seconds - other.device_seconds),
            cost=_less(self.cost, other.cost),
            energy_kwh=_less(self.energy_kwh, other.energy_kwh),
        )


class StepSpending(BaseModel):
    """What one step of a run took.

    Attributes:
        resources: The size of machine.
        devices: Processes that work at once, each on a device of its own.
        attempts: Starts so far, those in earlier runs included.
        state: `running` until the attempt has ended, however it did.
        spent: Over all attempts, those in earlier runs included.
        carried: The part of it that earlier runs spent on the same work.
        written: When this was written down, ISO 8601, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    step: str
    fingerprint: str
    resources: str
    devices: int
    attempts: int
    state: Literal["running", "ended"]
    spent: Spent
    carried: Spent
    written: str

    @property
    def own(self) -> Spent:
        """What this run spent."""
        return self.spent - self.carried


class Carried(BaseModel):
    """What unfinished work took so far: `attempts/<fingerprint>.json`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    attempts: int = 0
    seconds: float = 0.0
    cost: float | None = 0.0
    energy_kwh: float | None = 0.0

    @property
    def spent(self) -> Spent:
        """As a sum."""
        return Spent(device_seconds=self.seconds, cost=self.cost, energy_kwh=self.energy_kwh)


def spent_at(rate: Rate | None, device_seconds: float) -> Spent:
    """What so many seconds of devices take."""
    hours = device_seconds / 3600
    price, watts = (rate.price, rate.watts) if rate else (None, None)
    return Spent(
        device_seconds=device_seconds,
        cost=None if price is None else hours * price,
        energy_kwh=None if watts is None else hours * watts / 1000,
    )


def recorded(device_seconds: float, cost: float | None, energy_kwh: float | None, rate: Rate | None) -> Spent:
    """What a record says that its step took; what it leaves out, as records once did, by the rate."""
    by_rate = spent_at(rate, device_seconds)
    return Spent(
        device_seconds=device_seconds,
        cost=by_rate.cost if cost is None else cost,
        energy_kwh=by_rate.energy_kwh if energy_kwh is None else energy_kwh,
    )


def total(many: Iterable[Spent]) -> Spent:
    """All of it together."""
    return sum(many, Spent())


def attempts_key(fingerprint: str) -> str:
    """Where unfinished work is counted."""
    return f"attempts/{fingerprint}.json"


def spending_key(run: str, step: str, fingerprint: str) -> str:
    """Where what a run's step takes is counted."""
    return f"runs/{run}/spending/{step}/{fingerprint}.json"


def read_carried(store: Store, fingerprint: str) -> Carried:
    """What earlier attempts at unfinished work took; nothing where there were none."""
    key = attempts_key(fingerprint)
    return Carried.model_validate_json(store.read(key)) if store.stat(key) is not None else Carried()


def read_spending(store: Store, run: str) -> list[StepSpending]:
    """What each step of a run took so far."""
    return [
        StepSpending.model_validate_json(store.read(stat.key))
        for stat in store.list(f"runs/{run}/spending/")
        if stat.key.endswith(".json")
    ]


def write_spending(store: Store, spending: StepSpending) -> None:
    """Write it down, for the run and for the next attempt at the same work."""
    carried = Carried(
        attempts=spending.attempts,
        seconds=round(spending.spent.device_seconds, 3),
        cost=spending.spent.cost,
        energy_kwh=spending.spent.energy_kwh,
    )
    store.write(attempts_key(spending.fingerprint), json.dumps(carried.model_dump()).encode())
    key = spending_key(spending.run, spending.step, spending.fingerprint)
    store.write(key, json.dumps(spending.model_dump(), sort_keys=True, indent=1).encode())


def by_now(spending: StepSpending, rate: Rate | None, now: datetime | None = None) -> Spent:
    """What this run has spent on a step by now: what is written down, and what a running step took since."""
    since = ((now or datetime.now(UTC)) - datetime.fromisoformat(spending.written)).total_seconds()
    if spending.state == "ended" or not 0 < since < ALIVE_SECONDS:
        return spending.own
    return spending.own + spent_at(rate, since * spending.devices)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(0.0, one - other)
