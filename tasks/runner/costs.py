"""`perennial costs`: device hours, cost and energy of steps, runs, models, versions; `perennial budget`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.artefacts import Store, open_store
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.models import Budget
from tasks.recipe.plan import Plan
from tasks.release.prices import price_table
from tasks.release.spending import Spent, StepSpending, read_spending, recorded, spent_at, total
from tasks.runner import budget
from tasks.runner.planner import Preview, run_of
from tasks.runner.process import read_plan
from tasks.runner.records import StepRecord
from tasks.runner.settings import Settings
from tasks.tracking import registry

Figures = dict[str, Any]
"""`device_hours`, `cost` (None where a price is not known), `energy_kwh` (None where the power is not)."""


def costs(settings: Settings, name: str | None) -> dict[str, Any]:
    """What a run, a model or everything took.

    Args:
        settings: Where the store and MLflow are.
        name: A run or a model; None for all models.

    Returns:
        For a run: `run`, `model`, `recipe`, `created`, `currency`, `budget`, `counted` (against the budget),
        the figures, and `steps`: each `step`, `state` (done, cached, running, stopped), `resources`,
        `attempts`, `made_by`, figures, and `carried`: the part of them that earlier runs spent on the work.
        For a model: `model`, `currency`, the figures, `runs` (as above without steps), `versions`: each
        `version`, `semantic`, `aliases`, `run` and the figures of all that made it.
        For everything: `models`: each `model`, `currency`, `runs`, `versions` (how many) and the figures.

    Raises:
        ConfigInvalid: There is no run and no model of that name.
    """
    store = open_store(settings.store)
    if name is not None and store.stat(f"runs/{name}/plan.json") is not None:
        return _run(store, _plan(store, name), steps=True)
    plans: dict[str, list[Plan]] = {}
    for run in _runs(store):
        plan = _plan(store, run)
        plans.setdefault(plan.model, []).append(plan)
    if name is None:
        whole = [_model(store, settings, model, plans[model]) for model in sorted(plans)]
        return {
            "models": [
                {**each, "runs": len(each["runs"]), "versions": len(each["versions"])} for each in whole
            ]
        }
    if name not in plans:
        known = ", ".join(sorted(plans)) or "none"
        raise ConfigInvalid(
            f"there is no run and no model '{name}' in {store.uri}; models with runs are: {known}"
        )
    return _model(store, settings, name, plans[name])


def print_costs(settings: Settings, name: str | None, *, as_json: bool) -> None:
    """Print what `costs` gives, as a table or as JSON."""
    found = costs(settings, name)
    if as_json:
        print(json.dumps(found, indent=1, sort_keys=True))
        return
    console = Console(soft_wrap=True)
    if "steps" in found:
        _show(
            console, found["steps"], ("step", "state", "resources", "attempts", "made_by"), found["currency"]
        )
        limit = found["budget"]
        if limit:
            counted = found["counted"]
            said = [
                f"{counted[unit]:.4g} of {limit[unit]:.4g} {words}"
                for unit, words in (("device_hours", "device hours"), ("cost", found["currency"]))
                if limit[unit] is not None and counted[unit] is not None
            ]
            console.print(f"budget: {', '.join(said)}", highlight=False)
    elif "runs" in found and isinstance(found["runs"], list):
        _show(console, found["runs"], ("run", "recipe", "created"), found["currency"])
        console.print()
        _show(console, found["versions"], ("version", "semantic", "aliases", "run"), found["currency"])
    else:
        _show(console, found["models"], ("model", "runs", "versions"), "")
        return
    console.print(f"in all: {_words(found, found['currency'])}", highlight=False)


def raise_budget(settings: Settings, uri: str, limit: Budget, by: str, reason: str) -> str:
    """Give a run another budget; what it is and what is used of it, in words."""
    plan, store = read_plan(uri)
    before = budget.limit_of(store, plan)
    budget.set_limit(store, plan, limit, by, reason)
    taken = budget.spent_by(store, plan)
    was, now = (_limits(each, plan.currency) for each in (before, limit))
    return (
        f"budget of run '{plan.run}': {was} -> {now} by {by}: {reason}\n"
        f"used so far: {_words(_figures(taken), plan.currency)}"
    )


def expectation(plan: Plan, seen: Sequence[Preview], store: Store) -> str:
    """What the steps that would run are expected to take, and the budget, in words."""
    spent, unknown = Spent(), []
    for each in seen:
        if each.cached:
            continue
        tokens = each.estimate.tokens if each.estimate else None
        seconds = budget.expected_seconds(store, plan, each.step, tokens)
        if seconds is None:
            unknown.append(each.step.name)
        else:
            spent += spent_at(plan.rates.get(each.step.resources), seconds)
    words = f"expected, by what the steps took last time: {_words(_figures(spent), plan.currency)}"
    if unknown:
        words += f", and what {', '.join(unknown)} will take, which never ran so"
    return f"{words}; budget: {_limits(budget.limit_of(store, plan), plan.currency)}"


def _runs(store: Store) -> list[str]:
    """The runs that have a plan, by name."""
    keys = [stat.key.split("/") for stat in store.list("runs/")]
    return sorted({words[1] for words in keys if words[2:] == ["plan.json"]})


def _plan(store: Store, run: str) -> Plan:
    return Plan.from_bytes(store.read(f"runs/{run}/plan.json"))


def _run(store: Store, plan: Plan, *, steps: bool = False) -> dict[str, Any]:
    spending = {each.step: each for each in read_spending(store, plan.run)}
    records = run_of(plan, store)
    own = total(each.own for each in read_spending(store, plan.run))
    if not spending:  # from before runs wrote down what they take
        own = total(_of_record(record, plan) for record in records.values() if not record.cached)
    found: dict[str, Any] = {
        "run": plan.run,
        "model": plan.model,
        "recipe": plan.recipe,
        "created": plan.created,
        "currency": plan.currency,
        **_figures(own),
    }
    if steps:
        limit = budget.limit_of(store, plan)
        found["budget"] = limit.model_dump() if limit else None
        found["counted"] = _figures(budget.spent_by(store, plan))
        found["steps"] = [
            _step(step.name, step.resources, spending.get(step.name), records.get(step.name), plan)
            for step in plan.steps
            if step.name in spending or step.name in records
        ]
    return found


def _step(
    name: str, resources: str, spending: StepSpending | None, record: StepRecord | None, plan: Plan
) -> dict[str, Any]:
    if record is not None:
        spent = _of_record(record, plan)
        state = "cached" if record.cached else "done"
    else:
        assert spending is not None
        spent = spending.spent
        state = "running" if spending.state == "running" else "stopped"
    return {
        "step": name,
        "state": state,
        "resources": (record.resources if record else "") or resources,
        "attempts": record.attempts if record else spending.attempts if spending else 0,
        "made_by": record.run if record else plan.run,
        "carried": _figures(spending.carried if spending else Spent()),
        **_figures(spent),
    }


def _model(store: Store, settings: Settings, model: str, plans: Sequence[Plan]) -> dict[str, Any]:
    runs = sorted((_run(store, plan) for plan in plans), key=lambda each: each["created"])
    held: dict[str, list[str]] = {}
    for alias, number in registry.aliases(model).items():
        held.setdefault(number, []).append(alias)
    by_run = {plan.run: plan for plan in plans}
    versions = []
    for version in registry.versions(model):
        run = version.tags.get("perennial.run", "")
        records = run_of(by_run[run], store) if run in by_run else {}
        spent = total(_of_record(record, by_run[run]) for record in records.values())
        versions.append(
            {
                "version": version.version,
                "semantic": version.semantic,
                "aliases": sorted(held.get(version.version, [])),
                "run": run,
                **(_figures(spent) if records else dict.fromkeys(_figures(spent))),
            }
        )
    currencies = {run["currency"] for run in runs if run["currency"]}
    whole = total(Spent(device_seconds=run["device_hours"] * 3600, cost=run["cost"],
                        energy_kwh=run["energy_kwh"]) for run in runs)  # fmt: skip
    if len(currencies) > 1:  # runs of other price tables: their sum means nothing
        whole = whole.model_copy(update={"cost": None})
    return {
        "model": model,
        "currency": " and ".join(sorted(currencies)),
        **_figures(whole),
        "runs": runs,
        "versions": versions,
    }


def _of_record(record: StepRecord, plan: Plan) -> Spent:
    """What a step took: as its record says, or by today's rates, from before records said it."""
    rates = plan.rates or price_table()[1]
    machines = {step.name: step.resources for step in plan.steps}
    rate = rates.get(record.resources or machines.get(record.step, ""))
    return recorded(record.device_seconds, record.cost, record.energy_kwh, rate)


def _figures(spent: Spent) -> Figures:
    return {
        "device_hours": round(spent.device_hours, 6),
        "cost": None if spent.cost is None else round(spent.cost, 6),
        "energy_kwh": None if spent.energy_kwh is None else round(spent.energy_kwh, 6),
    }


def _words(figures: Mapping[str, Any], currency: str) -> str:
    parts = [f"{figures['device_hours']:.4g} device hours"]
    parts += [f"{figures['cost']:.4g} {currency}"] if figures["cost"] is not None else []
    parts += [f"about {figures['energy_kwh']:.3g} kWh"] if figures["energy_kwh"] is not None else []
    return ", ".join(parts)


def _limits(limit: Budget | None, currency: str) -> str:
    if limit is None:
        return "none"
    parts = [f"{limit.device_hours:.4g} device hours"] if limit.device_hours is not None else []
    parts += [f"{limit.cost:.4g} {currency}"] if limit.cost is not None else []
    return " and ".join(parts)


def _show(console: Console, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], currency: str) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for column in ("device hours", f"cost {currency}".strip(), "kWh (estimate)"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        words = [", ".join(row[key]) if isinstance(row[key], list) else str(row[key]) for key in columns]
        numbers = [row[key] for key in ("device_hours", "cost", "energy_kwh")]
        table.add_row(*words, *("-" if number is None else f"{number:.4g}" for number in numbers))
    console.print(table, highlight=False, markup=False)
