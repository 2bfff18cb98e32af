"""A run's budget: asked before a step starts and while it works, so that the run stops before it is exceeded.

What counts is all work on what this run makes: every attempt, those of earlier runs that it goes on from
included. A result that an earlier run finished is free, unless its budget stopped that run and this one does
the same work again: otherwise a run that is stopped would only have to be started anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.artefacts import Store, load_manifest
from tasks.recipe.failures import ConfigInvalid, OverBudget
from tasks.recipe.models import Budget, Gate
from tasks.recipe.plan import Plan, PlannedStep, Rate
from tasks.release.spending import Spent, by_now, read_carried, read_spending, spent_at, total
from tasks.runner import ranks
from tasks.runner.meter import TICK_SECONDS, Meter
from tasks.runner.records import Output, latest_key, read_record, run_key
from tasks.stage import Checkpoints, Method

ROOM_SHARE, START_SHARE, ROOM_SECONDS = 0.01, 0.05, 60.0
"""The least that is kept free for saving and ending: a hundredth of the budget, a minute at most. On the last
twentieth, or minute, no step starts."""

SHORTEST_TICK = 0.2


def limit_of(store: Store, plan: Plan) -> Budget | None:
    """What the run may take now: what its plan says, or what it was raised to since."""
    raised = [stat.key for stat in store.list(f"runs/{plan.run}/budget/")]
    if not raised:
        return plan.budget
    words = json.loads(store.read(raised[-1]))
    return Budget(device_hours=words["device_hours"], cost=words["cost"])


def set_limit(store: Store, plan: Plan, limit: Budget, by: str, reason: str) -> None:
    """Give a run another budget; who, when and why stay beside it.

    Raises:
        ConfigInvalid: It limits nothing, nobody says why, or there is no price to count by.
    """
    if limit == Budget() or not by.strip() or not reason.strip():
        raise ConfigInvalid(
            "a budget needs a limit, a name and a reason: --device-hours or --cost, --by, --reason"
        )
    check_priced(limit, plan.steps, plan.rates)
    words = limit.model_dump() | {"by": by, "reason": reason, "time": datetime.now(UTC).isoformat()}
    number = 1
    while not store.write(
        f"runs/{plan.run}/budget/{number:06}.json", json.dumps(words, indent=1).encode(), if_absent=True
    ):
        number += 1


def check_priced(
    limit: Budget | None,
    steps: Sequence[PlannedStep],
    rates: Mapping[str, Rate],
    gates: Sequence[Gate] = (),
) -> None:
    """Refuse a budget or a gate in money where a step's machine has no price; raises ConfigInvalid."""
    asks = ["budget.cost"] if limit is not None and limit.cost is not None else []
    asks += [f"gate '{gate.gate}' on run.cost" for gate in gates if gate.measure == "run.cost"]
    if not asks:
        return
    for step in steps:
        rate = rates.get(step.resources)
        if rate is None or rate.price is None:
            raise ConfigInvalid(
                f"{asks[0]}: there is no price for step '{step.name}' on {step.resources}; add one to the "
                "file that PERENNIAL_PRICES names or to release.prices, or limit device_hours"
            )


def spent_by(store: Store, plan: Plan, *, but: str = "") -> Spent:
    """What counts against a run's budget by now.

    Args:
        store: Where it is written down.
        plan: The run's.
        but: A fingerprint to leave out.
    """
    found: dict[str, Spent] = {}
    for run in [*stopped_runs(store, plan.intent), plan.run]:
        for each in read_spending(store, run):
            rate = plan.rates.get(each.resources)
            found[each.fingerprint] = each.carried + by_now(each, rate)
    found.pop(but, None)
    return total(found.values())


def expected_seconds(store: Store, plan: Plan, step: PlannedStep, tokens: int | None) -> float | None:
    """Device seconds of a whole step: those of its last run on such a machine, by the tokens of then and now.

    None where it never ran so.
    """
    last = read_record(store, latest_key(plan.recipe, step.name))
    if (
        last is None
        or last.device_seconds <= 0
        or (last.stage, last.method) != (step.stage, step.method)
        or last.resources != step.resources
    ):
        return None
    before = last.metrics.get("tokens")
    return last.device_seconds * (tokens / before if tokens and before else 1.0)


def stopped_runs(store: Store, intent: str) -> list[str]:
    """The runs of one intent that their budget stopped, until one of them came to its end."""
    key = _stops_key(intent)
    return list(json.loads(store.read(key))) if intent and store.stat(key) is not None else []


def settle(store: Store, plan: Plan) -> None:
    """Forget the stopped runs of a plan's intent once every step of this one is done."""
    if stopped_runs(store, plan.intent) and all(
        store.stat(run_key(plan.run, step.name)) is not None for step in plan.steps
    ):
        store.delete(_stops_key(plan.intent))


def _stops_key(intent: str) -> str:
    return f"stops/{intent}.json"


class Guard:
    """Watches the budget of a run while one of its steps works.

    Attributes:
        exceeded: Why the step has to stop, in words; "" while it need not.
    """

    def __init__(self, store: Store, plan: Plan, step: PlannedStep, fingerprint: str) -> None:
        self._store = store
        self._plan = plan
        self._step = step
        self._fingerprint = fingerprint
        self._devices = ranks.world_size()
        self._rate = plan.rates.get(step.resources)
        self._limit = limit_of(store, plan) if ranks.rank() == 0 else None  # the first rank stops them all
        self._others = spent_by(store, plan, but=fingerprint) if self._limit else Spent()
        self._meter: Meter | None = None
        self._last_poll: float | None = None
        self._longest = 0.0
        self._longest_saving = 0.0
        self.exceeded = ""

    def ask(self, method: Method, inputs: Mapping[str, list[Output]]) -> None:
        """Before a step starts: is there enough left, for what it took last time?

        Raises:
            OverBudget: There is not.
        """
        if self._limit is None:
            return
        before = read_carried(self._store, self._fingerprint).spent
        expected = self._expected(method, inputs)
        rest = max(0.0, (expected or 0.0) - before.device_seconds)
        taken = self._others + before
        if self._over(taken + spent_at(self._rate, self._least_room(START_SHARE))):
            why = f"nothing is left for step '{self._step.name}'"
        elif expected is not None and self._over(taken + spent_at(self._rate, rest)):
            why = f"step '{self._step.name}' is expected to take {_time(rest)}, as it took last time"
        else:
            return
        self._note_stop()
        raise OverBudget(f"{self._told(taken)}: {why}. {self._remedy()}")

    def watch(self, meter: Meter) -> None:
        """Begin to look at what the step itself takes."""
        self._meter = meter

    def poll(self) -> bool:
        """Whether the step has to stop now; a method asks between two pieces of its work."""
        now = time.monotonic()
        if self._last_poll is not None:
            self._longest = max(self._longest, now - self._last_poll)
        self._last_poll = now
        return self._look()

    def tick(self) -> float:
        """Look at what the rest of the run took; the seconds until it is worth to look again."""
        if self._limit is None or self._meter is None:
            return TICK_SECONDS
        self._refresh()
        self._look()
        return min(TICK_SECONDS, max(SHORTEST_TICK, self._left() / self._devices))

    def timed(self, checkpoints: Checkpoints) -> Checkpoints:
        """The same checkpoints; how long it takes to publish one is kept free at the end."""
        return _Timed(checkpoints, self)

    def saved_in(self, seconds: float) -> None:
        """A checkpoint was published: a good moment to stop at, so look whether the budget was changed."""
        self._longest_saving = max(self._longest_saving, seconds)
        if self._limit is not None:
            self._refresh()

    def stopped(self, how: str) -> OverBudget:
        """The failure of a step that was stopped; `how` is what its method said."""
        self._note_stop()
        return OverBudget(f"{self.exceeded}. {how}. {self._remedy()}")

    def _refresh(self) -> None:
        self._limit = limit_of(self._store, self._plan)
        self._others = spent_by(self._store, self._plan, but=self._fingerprint)

    def _look(self) -> bool:
        if self.exceeded or self._limit is None or self._meter is None:
            return bool(self.exceeded)
        once = self._longest + self._longest_saving + self._meter.longest_write
        room = max(2 * once * self._devices, self._least_room(ROOM_SHARE))
        taken = self._others + self._meter.spent
        if self._over(taken + spent_at(self._rate, room)):
            self.exceeded = self._told(taken)
        return bool(self.exceeded)

    def _over(self, spent: Spent) -> bool:
        assert self._limit is not None
        hours, cost = self._limit.device_hours, self._limit.cost
        return (hours is not None and spent.device_hours > hours) or (
            cost is not None and spent.cost is not None and spent.cost > cost
        )

    def _left(self) -> float:
        """Device seconds that are left."""
        assert self._limit is not None
        assert self._meter is not None
        taken, left = self._others + self._meter.spent, float("inf")
        if self._limit.device_hours is not None:
            left = self._limit.device_hours * 3600 - taken.device_seconds
        if self._limit.cost is not None and taken.cost is not None and self._rate and self._rate.price:
            left = min(left, (self._limit.cost - taken.cost) / self._rate.price * 3600)
        return left

    def _least_room(self, share: float) -> float:
        assert self._limit is not None
        shares = [ROOM_SECONDS]
        if self._limit.device_hours is not None:
            shares.append(share * self._limit.device_hours * 3600)
        if self._limit.cost is not None and self._rate and self._rate.price:
            shares.append(share * self._limit.cost / self._rate.price * 3600)
        return min(shares)

    def _expected(self, method: Method, inputs: Mapping[str, list[Output]]) -> float | None:
        tokens = None
        if method.estimate is not None:
            metas: dict[str, list[Mapping[str, Any]]] = {
                port: [load_manifest(self._store, each.digest).meta for each in many]
                for port, many in inputs.items()
            }
            tokens = method.estimate(method.options.model_validate(self._step.options), metas).tokens
        return expected_seconds(self._store, self._plan, self._step, tokens)

    def _told(self, taken: Spent) -> str:
        assert self._limit is not None
        parts = []
        if self._limit.device_hours is not None:
            parts.append(f"{taken.device_hours:.4g} of {self._limit.device_hours:.4g} device hours")
        if self._limit.cost is not None and taken.cost is not None:
            parts.append(f"{taken.cost:.4g} of {self._limit.cost:.4g} {self._plan.currency}")
        return f"run '{self._plan.run}' has taken {' and '.join(parts)} of its budget"

    def _remedy(self) -> str:
        return (
            "Everything so far is kept. Raise the recipe's budget and run it again, or this run's with "
            "`perennial budget` and start the step again: it goes on from here"
        )

    def _note_stop(self) -> None:
        if not self._plan.intent:
            return
        runs = stopped_runs(self._store, self._plan.intent)
        if self._plan.run not in runs:
            self._store.write(_stops_key(self._plan.intent), json.dumps([*runs, self._plan.run]).encode())


class _Timed:
    """Checkpoints that tell a guard how long it takes to publish one."""

    def __init__(self, checkpoints: Checkpoints, guard: Guard) -> None:
        self._checkpoints = checkpoints
        self._guard = guard

    def save(self, directory: Path, position: int, keep: Sequence[int] = ()) -> None:
        """Pass on, and tell."""
        began = time.monotonic()
        self._checkpoints.save(directory, position, keep)
        self._guard.saved_in(time.monotonic() - began)

    def newest(self) -> tuple[Path, int] | None:
        """Pass on."""
        return self._checkpoints.newest()

    def recorded(self) -> int:
        """Pass on."""
        return self._checkpoints.recorded()


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"
