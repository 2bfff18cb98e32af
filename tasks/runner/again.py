"""Run a run again from one of its steps on, with changes: everything before that step is reused as it is.

The new plan stands on the old one: its recipe, its data, what its champion references stood for, and the code
of the steps that are reused. So nothing before the step can have changed, and a change that would reach it is
refused instead of quietly training more than was asked for.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence

from tasks.artefacts import Store, open_store
from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.links import dependencies
from tasks.recipe.plan import Plan, PlannedStep, resolve
from tasks.recipe.problems import did_you_mean
from tasks.release.keys import trusted_keys
from tasks.release.prices import price_table
from tasks.runner.budget import check_priced
from tasks.runner.code import code_of
from tasks.runner.planner import preview
from tasks.runner.settings import Settings

FIXED = ("data", "recipe", "model")
"""Parts of a recipe that a run keeps: another of these is another run, not this one again."""


def freeze_again(
    recipe_path: str,
    settings: Settings,
    *,
    run: str,
    from_run: str,
    from_step: str,
    overrides: Sequence[str] = (),
    refresh: Sequence[str] = (),
) -> Plan:
    """The plan of a run that repeats another from a step on.

    The step runs even if nothing changed; what comes after it runs where its input did.

    Args:
        recipe_path: The recipe's file; only its name is compared, the recipe is the old run's.
        settings: Where the store is.
        run: The id of the new run.
        from_run: The id of the old one.
        from_step: The first step to run.
        overrides: `key=value` changes to the recipe of the old run.
        refresh: Further steps after it to run although nothing changed.

    Raises:
        ConfigInvalid: There is no such run or step, it is another recipe's, a change reaches what comes
            before the step, or a result from before it is missing or damaged.
    """
    store = open_store(settings.store)
    old = _plan(store, from_run)
    catalogue = Catalogue.load()
    named = check(recipe_path, catalogue).recipe
    if named is not None and named.recipe != old.recipe:
        raise ConfigInvalid(
            f"run '{from_run}' is one of recipe '{old.recipe}', not of '{named.recipe}': name its own recipe"
        )
    for text in overrides:
        key = text.removeprefix("--set").strip().split("=", 1)[0].split(".", 1)[0]
        if key in FIXED:
            raise ConfigInvalid(
                f"'{text}': a run that is taken up again keeps its {key}; start a new run to change it"
            )
    checked = check(json.dumps(old.effective, indent=1) + "\n", catalogue, overrides)
    if checked.recipe is None or checked.problems:
        raise ConfigInvalid(
            f"the recipe of run '{from_run}' with these changes:\n{format_problems(checked.problems)}"
        )
    recipe = checked.recipe
    if from_step not in recipe.steps:
        raise ConfigInvalid(
            f"run '{from_run}' has no step '{from_step}'; {did_you_mean(from_step, list(recipe.steps))}"
        )
    again = after(from_step, dependencies(recipe.steps))
    outside = [name for name in refresh if name not in again]
    if outside:
        raise ConfigInvalid(
            f"step '{outside[0]}' does not come after '{from_step}': to run it again, start from it instead"
        )
    if recipe.release is not None:
        trusted_keys(store.uri)
    currency, rates = price_table(recipe.release.prices if recipe.release else None)
    plan = resolve(
        recipe,
        catalogue,
        data=old.data,
        champion=old.bindings,
        uris=old.uris,
        code={
            name: code_of(step.stage, step.method or catalogue.default_method(step.stage))
            if name in again
            else old.code[name]
            for name, step in recipe.steps.items()
        },
        run=run,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        overrides=[*old.overrides, *overrides],
        refresh=list(dict.fromkeys([from_step, *refresh])),
        rates=rates,
        currency=currency,
    )
    check_priced(plan.budget, plan.steps, plan.rates, plan.release.gates if plan.release else ())
    _check_before(old, plan, again, from_run, from_step)
    for seen in preview(plan, store, estimates=False):
        if seen.step.name not in again and not seen.cached:
            raise ConfigInvalid(
                f"step '{seen.step.name}' comes before '{from_step}', and its result of run '{from_run}' "
                f"cannot be reused: {'; '.join(seen.reasons)}. Start from '{seen.step.name}' instead"
            )
    return plan


def after(step: str, needs: Mapping[str, Sequence[str] | set[str]]) -> set[str]:
    """A step and every step that reads from it, however far down.

    Args:
        step: Where to begin.
        needs: Step -> the steps it reads from.
    """
    found = {step}
    while more := {name for name, reads in needs.items() if name not in found and found & set(reads)}:
        found |= more
    return found


def _plan(store: Store, run: str) -> Plan:
    key = f"runs/{run}/plan.json"
    if store.stat(key) is None:
        raise ConfigInvalid(
            f"there is no run '{run}' in {store.uri} (its plan would be {key}); `runs/` there lists them"
        )
    return Plan.from_bytes(store.read(key))


def _check_before(old: Plan, new: Plan, again: set[str], from_run: str, from_step: str) -> None:
    """Refuse a change that reaches a step which is to be reused."""
    known = {step.name: step for step in old.steps}
    for step in new.steps:
        if step.name in again:
            continue
        before = known.get(step.name)
        changed = [] if before is None else _changed(before, step)
        if before is None or changed:
            what = ", ".join(changed) or "it is new"
            raise ConfigInvalid(
                f"step '{step.name}' comes before '{from_step}' and would not be that of run '{from_run}' "
                f"({what}); start from '{step.name}' instead, or leave that change out"
            )


def _changed(old: PlannedStep, new: PlannedStep) -> list[str]:
    """What of a step differs, but for the machine it runs on."""
    names = ("stage", "method", "seed", "inputs", "outputs")
    found = [name for name in names if getattr(old, name) != getattr(new, name)]
    options = sorted(
        f"options.{name}"
        for name in old.options.keys() | new.options.keys()
        if old.options.get(name) != new.options.get(name)
    )
    return [*found, *options]
