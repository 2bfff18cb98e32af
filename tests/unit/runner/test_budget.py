"""A run's budget with a stage of a few lines: what counts, when a step is stopped, how it goes on."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.artefacts import Store
from tasks.recipe.failures import RETRIED, ConfigInvalid, Failure, Infrastructure, OverBudget, Preempted
from tasks.recipe.models import Budget, Gate
from tasks.recipe.plan import Plan, PlannedInput, PlannedStep, Rate
from tasks.release.spending import (
    Spent,
    StepSpending,
    attempts_key,
    by_now,
    read_spending,
    spent_at,
    write_spending,
)
from tasks.runner import budget, logbook, meter, step
from tasks.runner.records import StepRecord
from tasks.runner.settings import Settings
from tasks.stage import Estimate, Method, Options, Port, Result, StepContext
from tests.unit.runner.conftest import plan_of

RATES = {"cpu": Rate(price=2.0, watts=100.0)}


class Work(Options):
    """Options of the test's method."""

    seconds: float = 0.0


class Clock:
    """Stands for the time that passes while a method works: how busy the machine is does not matter here."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


CLOCK = Clock()


def work(context: StepContext, options: Work) -> Result:
    """Pass some time in pieces, asking between them whether to stop."""
    until = CLOCK.now + options.seconds
    while CLOCK.now < until:
        if context.stopping():
            raise Preempted("saved at piece 3")
        CLOCK.now += 0.01
    (context.output("made") / "text.txt").write_text("done")
    return Result(figure="done", metrics={"tokens": 100.0})


METHOD = Method("work", Work, {"text": Port(("documents",))}, {"made": "documents"}, work)


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbook, "log_step", lambda *_: "mlflow")
    monkeypatch.setattr(step, "load_method", lambda *_: METHOD)
    for module in (meter, budget):
        monkeypatch.setattr(module, "time", CLOCK)


def plan(run: str, data: str, seconds: float, limit: Budget | None = None, intent: str = "i") -> Plan:
    planned = PlannedStep(
        name="long", stage="merge", method="work", options={"seconds": seconds}, seed=0, resources="cpu",
        inputs={"text": [PlannedInput(ref="data.x", kind="documents", digest=data)]},
        outputs={"made": "documents"}, hands_on=False,
    )  # fmt: skip
    update = {"budget": limit, "rates": RATES, "currency": "EUR", "intent": intent}
    return plan_of(run, [planned]).model_copy(update=update)


def hours(seconds: float) -> Budget:
    return Budget(device_hours=seconds / 3600)


def attempt(settings: Settings, store: Store) -> step.Attempt:
    return step.Attempt(settings=settings, store=store, say=lambda line: None)


def run(made: Plan, settings: Settings, store: Store) -> StepRecord:
    return step.run_step(made, "long", attempt(settings, store))


def test_over_budget_is_its_own_class_and_no_retry_mends_it() -> None:
    assert (OverBudget.failure, int(OverBudget.failure)) == (Failure.OVER_BUDGET, 9)
    assert Failure.OVER_BUDGET not in RETRIED


def test_p25_a_step_writes_down_what_it_took_for_good(data: str, settings: Settings, store: Store) -> None:
    record = run(plan("one", data, 0.02), settings, store)
    [found] = read_spending(store, "one")
    assert (found.state, found.attempts, found.carried) == ("ended", 1, Spent())
    assert found.spent.device_seconds == pytest.approx(record.device_seconds, abs=1e-3)
    assert record.cost == pytest.approx(record.device_seconds / 3600 * 2.0, rel=0.05)
    assert record.energy_kwh == pytest.approx(record.device_seconds / 3600 * 0.1, rel=0.05)
    assert store.stat(attempts_key(record.fingerprint)) is None


def test_p25_another_run_goes_on_counting_where_this_one_was_killed(
    data: str, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(context: StepContext, options: Work) -> Result:
        CLOCK.now += 0.05
        raise Preempted("killed")

    broken = Method("work", Work, METHOD.inputs, METHOD.outputs, killed)
    monkeypatch.setattr(step, "load_method", lambda *_: broken)
    for _ in range(2):
        with pytest.raises(Preempted):
            run(plan("one", data, 0.05), settings, store)
    monkeypatch.setattr(step, "load_method", lambda *_: METHOD)
    record = run(plan("two", data, 0.05), settings, store)
    [first], [second] = read_spending(store, "one"), read_spending(store, "two")
    assert record.attempts == 3
    assert record.device_seconds > first.spent.device_seconds == pytest.approx(0.1)
    assert second.carried.device_seconds == pytest.approx(first.spent.device_seconds, abs=1e-3)
    assert second.own.device_seconds == pytest.approx(
        record.device_seconds - second.carried.device_seconds, abs=2e-3
    )


def test_a_step_is_stopped_before_the_budget_is_exceeded_and_goes_on_when_it_is_raised(
    data: str, settings: Settings, store: Store
) -> None:
    with pytest.raises(OverBudget, match=r"of 0\.0001389 device hours.*saved at piece 3.*budget") as stopped:
        run(plan("one", data, 5.0, hours(0.5)), settings, store)
    assert "everything so far is kept" in str(stopped.value).lower()
    [found] = read_spending(store, "one")
    assert 0.2 < found.spent.device_seconds <= 0.5
    with pytest.raises(OverBudget, match="nothing is left for step 'long'"):
        run(
            plan("two", data, 5.0, hours(found.spent.device_seconds * 1.02)), settings, store
        )  # what is spent stays spent
    assert read_spending(store, "two") == []
    record = run(plan("three", data, 0.01, hours(60.0)), settings, store)
    assert record.figure == "done"


def test_a_budget_in_money_counts_by_the_rate(data: str, settings: Settings, store: Store) -> None:
    with pytest.raises(OverBudget, match="EUR"):
        run(plan("one", data, 5.0, Budget(cost=0.5 / 3600 * 2.0)), settings, store)
    [found] = read_spending(store, "one")
    assert found.spent.cost is not None
    assert found.spent.cost <= 0.5 / 3600 * 2.0


def test_a_method_that_asks_nobody_is_interrupted(
    data: str, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()

    def deaf(context: StepContext, options: Work) -> Result:
        CLOCK.now += 0.3
        assert told.wait(60)
        raise Preempted("stopped by SIGTERM")

    method = Method("work", Work, METHOD.inputs, METHOD.outputs, deaf)
    monkeypatch.setattr(step, "load_method", lambda *_: method)
    asked = attempt(settings, store)
    times: list[float] = []

    def interrupt() -> None:
        times.append(time.monotonic())
        threading.Timer(0.5, told.set).start()  # as long as it takes to unwind, it is not told again

    asked.interrupt = interrupt
    with pytest.raises(OverBudget, match="stopped by SIGTERM"):
        step.run_step(plan("one", data, 0.0, hours(0.3)), "long", asked)
    assert len(times) == 1


def test_a_step_that_took_more_last_time_than_is_left_does_not_start(
    data: str, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(plan("one", data, 0.05), settings, store)
    twice = Method(
        "work", Work, METHOD.inputs, METHOD.outputs, work, estimate=lambda *_: Estimate(tokens=200)
    )
    monkeypatch.setattr(step, "load_method", lambda *_: twice)
    limit = hours(record.device_seconds * 1.5)
    with pytest.raises(OverBudget, match="is expected to take"):
        run(plan("two", data, 0.06, limit), settings, store)
    monkeypatch.setattr(step, "load_method", lambda *_: METHOD)  # nothing known of the tokens: as last time
    with pytest.raises(OverBudget, match="has taken"):
        run(plan("three", data, 60.0, limit), settings, store)
    assert read_spending(store, "three")[0].state == "ended"


def test_what_a_stopped_run_finished_counts_for_the_run_that_goes_on_and_for_no_other(
    data: str, store: Store
) -> None:
    def spent(run: str, fingerprint: str, seconds: float) -> None:
        write_spending(store, StepSpending(
            run=run, step=fingerprint[0], fingerprint=fingerprint, resources="cpu", devices=1, attempts=1,
            state="ended", spent=spent_at(RATES["cpu"], seconds), carried=Spent(),
            written=datetime.now(UTC).isoformat(),
        ))  # fmt: skip

    spent("one", "a" * 64, 10.0)
    spent("one", "b" * 64, 5.0)
    spent("two", "b" * 64, 8.0)  # goes on with b
    store.write("stops/i.json", json.dumps(["one"]).encode())
    assert budget.spent_by(store, plan("two", data, 0.0)).device_seconds == 18.0
    assert budget.spent_by(store, plan("two", data, 0.0), but="b" * 64).device_seconds == 10.0
    assert budget.spent_by(store, plan("two", data, 0.0, intent="another")).device_seconds == 8.0


def test_the_stop_is_forgotten_once_the_work_is_done(data: str, settings: Settings, store: Store) -> None:
    with pytest.raises(OverBudget):
        run(plan("one", data, 5.0, hours(0.1)), settings, store)
    assert budget.stopped_runs(store, "i") == ["one"]
    run(plan("two", data, 0.0, hours(60.0)), settings, store)
    assert budget.stopped_runs(store, "i") == []


def test_a_run_that_works_elsewhere_at_once_counts_up_to_now() -> None:
    now = datetime.now(UTC)
    written = StepSpending(
        run="r", step="s", fingerprint="f", resources="cpu", devices=2, attempts=1, state="running",
        spent=spent_at(RATES["cpu"], 100.0), carried=Spent(),
        written=(now - timedelta(seconds=5)).isoformat(),
    )  # fmt: skip
    assert by_now(written, RATES["cpu"], now).device_seconds == pytest.approx(110.0)
    dead = written.model_copy(update={"written": (now - timedelta(minutes=5)).isoformat()})
    assert by_now(dead, RATES["cpu"], now).device_seconds == 100.0


def test_a_runs_own_budget_can_be_raised_and_says_by_whom(
    data: str, settings: Settings, store: Store
) -> None:
    made = plan("one", data, 0.3, hours(0.1))
    with pytest.raises(OverBudget):
        run(made, settings, store)
    with pytest.raises(ConfigInvalid, match="--reason"):
        budget.set_limit(store, made, hours(60), "ada", "")
    budget.set_limit(store, made, hours(0.15), "ada", "try")
    budget.set_limit(store, made, hours(60), "ada", "it is worth it")
    assert budget.limit_of(store, made) == hours(60)
    record = run(made, settings, store)
    assert (record.figure, record.attempts) == ("done", 2)
    words = json.loads(store.read("runs/one/budget/000002.json"))
    assert (words["by"], words["reason"]) == ("ada", "it is worth it")


def test_a_budget_in_money_needs_a_price(data: str) -> None:
    made = plan("one", data, 0.0)
    budget.check_priced(Budget(cost=1.0), made.steps, made.rates)
    budget.check_priced(hours(1), made.steps, {})
    with pytest.raises(ConfigInvalid, match=r"no price for step 'long' on cpu.*PERENNIAL_PRICES"):
        budget.check_priced(Budget(cost=1.0), made.steps, {"cpu": Rate(watts=5)})


def test_a_gate_on_the_cost_needs_a_price(data: str) -> None:
    made = plan("one", data, 0.0)
    gate = Gate(gate="cheap", measure="run.cost", at_most=1.0, reason="r")
    budget.check_priced(None, made.steps, made.rates, [gate])
    with pytest.raises(ConfigInvalid, match=r"gate 'cheap' on run.cost: .*no price for step 'long' on cpu"):
        budget.check_priced(None, made.steps, {}, [gate])


def test_several_devices_take_several_seconds_at_once(
    data: str, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.runner.ranks.world_size", lambda: 4)
    made = plan("one", data, 0.0)
    counted = meter.Meter(store, made, made.steps[0], "f" * 64)
    CLOCK.now += 0.02
    assert counted.spent.device_seconds == pytest.approx(4 * 0.02)


def test_a_store_that_is_away_for_a_moment_ends_no_training_and_no_counting(
    data: str, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (meter, budget):
        monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    writes: list[str] = []
    real = write_spending

    def write(where: Store, spending: StepSpending) -> None:
        writes.append(spending.state)
        if len(writes) in (2, 3):
            raise Infrastructure("S3 cannot be reached")
        real(where, spending)

    def slow(context: StepContext, options: Work) -> Result:
        time.sleep(0.5)
        return work(context, options)

    monkeypatch.setattr(meter, "write_spending", write)
    method = Method("work", Work, METHOD.inputs, METHOD.outputs, slow)
    monkeypatch.setattr(step, "load_method", lambda *_: method)
    record = run(plan("one", data, 0.0), settings, store)
    assert record.figure == "done"
    assert writes.count("running") > 3


def test_nothing_is_known_of_a_sum_with_an_unknown_part() -> None:
    one: Any = spent_at(Rate(price=1.0, watts=None), 3600.0)
    assert (one.cost, one.energy_kwh) == (1.0, None)
    assert (one + spent_at(None, 3600.0)).cost is None
    assert (one + spent_at(None, 3600.0)).device_hours == 2.0
