"""`perennial demo`: the main job through Airflow, as a user does it, from the trigger to the promotion."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from tasks.artefacts import Store, open_store
from tasks.local import services
from tasks.local.airflow_api import AirflowApi
from tasks.local.places import ROOT, Places, environment, login
from tasks.local.progress import Display, Row, row
from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tasks.recipe.failures import ConfigInvalid, Failure, Infrastructure
from tasks.recipe.models import Recipe
from tasks.recipe.run_names import run_name
from tasks.runner.settings import Settings

RECIPE = ROOT / "recipes" / "pydocs.yaml"
PARSE_SECONDS = 120.0
LOOK_SECONDS = 0.5
READING_SECONDS = 5.0
"""Before an answer, as a person would take. A task that is answered before the scheduler has seen its asking
process end counts as killed in Airflow 3.3.2, and asks again."""

TAIL_LINES = 30
ENDED = ("success", "failed")


@dataclass(frozen=True)
class Run:
    """One run of the recipe's DAG, and where its records are.

    Attributes:
        dag: The DAG's id.
        id: Airflow's id of the run.
        name: The run's folder in the store.
        tasks: The DAG's tasks in the order they are shown.
    """

    dag: str
    id: str
    name: str
    tasks: tuple[str, ...]


def demo(settings: Settings, recipe_path: Path = RECIPE) -> int:
    """Start the services, train, approve, promote, and tell what came out; the exit code.

    Returns:
        0 only where the model was promoted, or where nothing had changed since it was.
    """
    console = Console(soft_wrap=True)
    recipe = _recipe(recipe_path)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # be stopped as by Ctrl-C: cleanly
    began = time.monotonic()
    places, started = services.start(settings, lambda words: console.print(words, highlight=False))
    try:
        api = AirflowApi(places.airflow, *login(places.home))
        store = open_store(places.store)
        run = _trigger(api, recipe, console)
        console.print(f"run {run.id}: {places.airflow}/dags/{run.dag}/runs/{run.id}", highlight=False)
        try:
            _watch(api, run, store, console)
        except BaseException:
            if api.run(run.dag, run.id)["state"] not in ENDED:
                api.stop_run(run.dag, run.id)
            raise
        code = _conclude(api, run, recipe, store, places, console)
    finally:
        if started:
            services.stop(places.home)
    console.print(f"\n{time.monotonic() - began:.0f} s in all.", highlight=False)
    if started:
        console.print("Airflow and MLflow are stopped again; `make up` starts them.", highlight=False)
    return code


def _recipe(path: Path) -> Recipe:
    checked = check(path, Catalogue.load())
    if checked.recipe is None:
        raise ConfigInvalid(format_problems(checked.problems))
    return checked.recipe


def _trigger(api: AirflowApi, recipe: Recipe, console: Console) -> Run:
    """Unpause the DAG and start a run, or take up the one that an interrupted demo left behind."""
    dag = f"train__{recipe.recipe}"
    until = time.monotonic() + PARSE_SECONDS
    while api.dag(dag) is None:
        if time.monotonic() > until:
            errors = "\n".join(api.import_errors()) or "it reports no error in the DAG files"
            raise Infrastructure(
                f"Airflow did not find the DAG {dag} in {PARSE_SECONDS:.0f} s. It says:\n{errors}"
            )
        time.sleep(LOOK_SECONDS)
    api.set_paused(dag, False)
    left = api.active_runs(dag)
    if left:
        console.print("taking up the run that was interrupted", highlight=False)
    run_id = left[0] if left else api.trigger(dag, {"reason": "make demo"})
    tasks = ("plan", *recipe.steps, *after_the_steps(recipe))
    return Run(dag, run_id, run_name(recipe.recipe, run_id), tasks)


def after_the_steps(recipe: Recipe) -> list[str]:
    """The tasks of a recipe's DAG after its steps, in order; one approval is all that the demo gives."""
    release = recipe.release
    if release is None:
        return []
    asks, smokes = release.approval == "human", release.smoke is not None
    return [
        "register",
        *(["smoke_record"] if smokes else []),
        *(["approve"] if asks else []),
        *(["smoke"] if smokes else []),
        "promote",
        *(["smoke_after"] if smokes else []),
    ]


def _watch(api: AirflowApi, run: Run, store: Store, console: Console) -> None:
    """Show the run until it has ended; answer its question."""
    asks_since: float | None = None
    with Display(console) as display:
        while True:
            state = str(api.run(run.dag, run.id)["state"])
            tasks = api.tasks(run.dag, run.id)
            display.show(_rows(run, tasks, store))
            if state in ENDED:
                return
            if tasks.get("approve", {}).get("state") != "awaiting_input":
                asks_since = None
            elif asks_since is None:
                asks_since = time.monotonic()
            elif time.monotonic() - asks_since > READING_SECONDS:
                asks_since = None
                _approve(api, run, console)
            time.sleep(LOOK_SECONDS)


def _approve(api: AirflowApi, run: Run, console: Console) -> None:
    asked = api.question(run.dag, run.id, "approve")
    if not asked["response_received"]:
        console.print(f"{asked['subject']} Approve, says the demo.", highlight=False)
        api.answer(run.dag, run.id, "approve", "Approve", {"reason": "make demo: the gates passed"})


def _rows(run: Run, tasks: Mapping[str, Mapping[str, Any]], store: Store) -> list[Row]:
    now = datetime.datetime.now(datetime.UTC)
    return [
        row(
            name,
            tasks.get(name),
            _json(store, f"runs/{run.name}/steps/{name}.json"),
            _json(store, f"runs/{run.name}/progress/{name}.json"),
            now,
        )
        for name in run.tasks
    ]


def _conclude(
    api: AirflowApi, run: Run, recipe: Recipe, store: Store, places: Places, console: Console
) -> int:
    """Print what came out of the run, and give the exit code."""
    tasks = api.tasks(run.dag, run.id)
    states = {name: str(task["state"]) for name, task in tasks.items()}
    failed = [name for name in run.tasks if states.get(name) == "failed"]
    if failed:
        return _explain(api, run, failed[0], tasks[failed[0]], store, console)
    released = _json(store, f"runs/{run.name}/release.json")
    if states.get("promote") == "success":
        _print_markdown(store.read(f"runs/{run.name}/summary.md").decode(), console)
        console.print(f"\nPromoted. What the registry holds of '{recipe.model}':\n", highlight=False)
    elif _json(store, f"runs/{run.name}/unchanged.json") is not None or (
        released is not None and released.get("outcome") == "no_change"
    ):
        console.print("\nNo change: no new version. Why no step had to run:\n", highlight=False)
        for name in recipe.steps:
            record = _json(store, f"runs/{run.name}/steps/{name}.json") or {}
            reason = "; ".join(record.get("reasons", []))
            console.print(f"  {name:<16} {reason}", highlight=False, markup=False)
        console.print(f"\nWhat the registry holds of '{recipe.model}':\n", highlight=False)
    else:
        console.print(f"\nThe run ended without a promotion: {json.dumps(states)}", highlight=False)
        return int(Failure.BUG)
    _print_registry(recipe.model, places, console)
    console.print(f"\nreport    {_where(store, f'runs/{run.name}/report.html')}", highlight=False)
    console.print(f"run       {places.airflow}/dags/{run.dag}/runs/{run.id}", highlight=False)
    console.print(f"registry  {places.mlflow}/#/models/{recipe.model}", highlight=False)
    console.print(f"store     {places.store}", highlight=False)
    return 0


def _explain(
    api: AirflowApi, run: Run, name: str, task: Mapping[str, Any], store: Store, console: Console
) -> int:
    """Say why a task failed; the exit code of its class of failure."""
    words = _json(store, f"runs/{run.name}/failures/{name}.json")
    console.print(f"\n'{name}' failed. The end of its log:\n", highlight=False)
    for text in api.log(run.dag, run.id, name, int(task["try_number"]))[-TAIL_LINES:]:
        console.print(f"  {text}", highlight=False, markup=False)
    if words is None:
        return int(Failure.BUG)
    failure = Failure[str(words["failure"])]
    console.print(f"\n{name}: {failure.name.lower()}: {words['message']}", highlight=False, markup=False)
    return int(failure)


def _print_registry(model: str, places: Places, console: Console) -> None:
    """The versions and aliases, as `perennial registry` prints them."""
    command = [sys.executable, "-m", "tasks.cli", "registry", model]
    done = subprocess.run(
        command,
        env=environment(places) | {"COLUMNS": str(max(console.width, 120))},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Infrastructure(f"could not read the registry: {done.stderr.strip()}")
    console.print(done.stdout.rstrip(), highlight=False, markup=False)


def _print_markdown(text: str, console: Console) -> None:
    console.print()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        console.print(text, highlight=False, markup=False)


def _json(store: Store, key: str) -> dict[str, Any] | None:
    """A small JSON object of the store, or None where there is none."""
    if store.stat(key) is None:
        return None
    found: dict[str, Any] = json.loads(store.read(key))
    return found


def _where(store: Store, key: str) -> str:
    return str(store.local_path(key) or store.locate(key))
