"""The `perennial` command. Each sub-command is a few lines here; the work is in the packages."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.recipe.failures import Failure, PerennialError
from tasks.recipe.secrets import mask
from tasks.runner.settings import Settings, settings

if TYPE_CHECKING:
    from tasks.recipe.plan import Plan
    from tasks.runner.planner import Preview

UNCHANGED = 10
"""Exit code of `unchanged` and `register` where the run ends as "no change"."""

APPROVED = 11
"""Exit code of `promote` where it is on record as an approval, and nothing goes to production before another
person's."""


FOUND = 12
"""Exit code of `watchdog` where there is something to look at; 1 is a crash."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code: 0, 10 "no change", 11 "approved", 12 "found", else the class."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Settings], int] = options.command
    try:
        return command(options, settings())
    except PerennialError as error:
        print(mask(str(error)), file=sys.stderr)
        return int(error.failure)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _check(options: argparse.Namespace, _: Settings) -> int:
    from tasks.recipe.catalogue import Catalogue
    from tasks.recipe.check import check, format_problems

    catalogue = Catalogue.load()
    code = 0
    for path in options.recipe:
        checked = check(path, catalogue, options.set)
        if checked.problems:
            print(format_problems(checked.problems), file=sys.stderr)
            code = int(Failure.CONFIG_INVALID)
        elif checked.recipe is not None:
            print(f"{path}: recipe '{checked.recipe.recipe}' is right: {len(checked.recipe.steps)} steps")
    return code


def _plan(options: argparse.Namespace, places: Settings) -> int:
    from tasks.artefacts import open_store
    from tasks.runner.costs import expectation
    from tasks.runner.planner import link_all, preview, write_plan

    run = options.run or new_run()
    plan = _frozen(options, places, run)
    store = open_store(places.store)
    if options.freeze:
        uri = write_plan(plan, store)
        print(f"plan of run {run}: {uri}")
        if link_all(plan, store, places):
            print("no change: every step is a cache hit and its result is the champion\n")
            print(store.read(f"runs/{run}/summary.md").decode())
        return 0
    seen = preview(plan, store)
    _print_preview(plan, seen)
    print(expectation(plan, seen, store))
    return 0


def _frozen(options: argparse.Namespace, places: Settings, run: str) -> Plan:
    """The plan of a new run, or of an old one that is taken up again at a step."""
    from tasks.recipe.failures import ConfigInvalid
    from tasks.runner.again import freeze_again
    from tasks.runner.planner import freeze

    if bool(options.from_run) != bool(options.from_step):
        raise ConfigInvalid("--from-run and --from-step belong together: which run, and from which step on")
    if options.from_run:
        return freeze_again(
            options.recipe,
            places,
            run=run,
            from_run=options.from_run,
            from_step=options.from_step,
            overrides=options.set,
            refresh=options.refresh,
        )
    return freeze(options.recipe, places, run=run, overrides=options.set, refresh=options.refresh)


def _unchanged(options: argparse.Namespace, _: Settings) -> int:
    from tasks.runner.process import read_plan

    plan, store = read_plan(options.plan)
    return UNCHANGED if store.stat(f"runs/{plan.run}/unchanged.json") is not None else 0


def _step(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.process import step_process

    return step_process(options.plan, options.step, places, fresh=options.fresh)


def _outcome(options: argparse.Namespace, _: Settings) -> int:
    from tasks.runner.outcome import outcome
    from tasks.runner.process import read_plan

    plan, store = read_plan(options.plan)
    found = outcome(
        plan, options.step, store, attempt=options.attempt, killed_for_memory=options.killed_for_memory
    )
    print(json.dumps(found))
    return 0


def _run(options: argparse.Namespace, places: Settings) -> int:
    from rich.console import Console

    from tasks.artefacts import open_store
    from tasks.runner.planner import write_plan
    from tasks.runner.run import run_plan

    console = Console(soft_wrap=True)
    plan = _frozen(options, places, options.run or new_run())
    store = open_store(places.store)
    uri = write_plan(plan, store)
    console.print(f"run {plan.run}: {uri}", highlight=False)
    run_plan(plan, uri, store, places, console)
    if plan.release is None:
        return 0
    code = _register_plan(uri, places)
    if code == 0:
        console.print(
            f"Approve it with: perennial promote --plan {uri} --by YOU --reason WHY", highlight=False
        )
    return 0 if code == UNCHANGED else code


def _register(options: argparse.Namespace, places: Settings) -> int:
    return _register_plan(options.plan, places)


def _register_plan(uri: str, places: Settings) -> int:
    from tasks.runner.process import read_plan
    from tasks.runner.release import register_run

    plan, store = read_plan(uri)
    record = register_run(plan, uri, store, places)
    print(record.summary)
    return UNCHANGED if record.outcome == "no_change" else 0


def _promote(options: argparse.Namespace, places: Settings) -> int:
    return _decide("promote", options, places)


def _reject(options: argparse.Namespace, places: Settings) -> int:
    return _decide("reject", options, places)


def _decide(action: Literal["promote", "reject"], options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.release import decide

    told = decide(
        action,
        places,
        plan=options.plan,
        model=options.model,
        version=options.version,
        by=options.by or [os.environ.get("USER", "unknown")],
        reason=options.reason,
        over=options.over if action == "promote" else "",
        smoke_elsewhere=action == "promote" and options.smoke_elsewhere,
    )
    print(told.words)
    return APPROVED if told.missing else 0


def _rollback(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.release import roll_back

    told = roll_back(
        places,
        options.model,
        options.by,
        options.reason,
        options.run or "",
        options.from_version,
        options.to_version,
    )
    print(told)
    return 0


def _sign(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.release import sign_version

    print(sign_version(places, options.model, options.version, options.by))
    return 0


def _key(_: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.release import own_key

    print(own_key(places))
    return 0


def _models(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.registry import print_models

    print_models(places, as_json=options.json)
    return 0


def _show(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.registry import print_version

    print_version(places, options.model, options.version, as_json=options.json)
    return 0


def _compare(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.registry import print_comparison

    print_comparison(places, options.model, options.a, options.b, as_json=options.json)
    return 0


def _history(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.registry import print_history

    print_history(places, options.model, options.at, as_json=options.json)
    return 0


def _audit(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.registry import print_audit

    return print_audit(places, options.model, repair=options.repair, as_json=options.json)


def _card(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.registry import card_of

    print(card_of(places, options.model, options.version, write=options.write, by=options.by))
    return 0


def _delete(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.registry import delete_version

    print(delete_version(places, options.model, options.version, options.by, options.reason))
    return 0


def _registry(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.release import print_registry

    print_registry(places, options.model)
    return 0


def _summary(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.release import summary_of

    found = summary_of(places, options.plan, options.model, options.version)
    print(json.dumps(found) if options.json else found["markdown"])
    return 0


def _export(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.handover import export_version

    print(export_version(places, options.model, options.version, options.to, options.out, options.outtype))
    return 0


def _smoke(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.release import smoke_test

    passed, words = smoke_test(
        places,
        options.plan,
        options.model,
        options.version,
        record=options.record,
        if_missing=options.if_missing,
        after=options.after,
        prompt=options.prompt,
        tokens=options.tokens,
        chat=options.chat,
    )
    print(words)
    return 0 if passed else int(Failure.DATA_INVALID)


def _delta(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.handover import delta_version

    print(delta_version(places, options.model, options.version, base=options.base, restore=options.restore))
    return 0


def _deliver(_: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.handover import deliver

    print(deliver(places))
    return 0


def _evaluate(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.evaluate import evaluate_version, recipe_path, table

    found = evaluate_version(
        places,
        options.model,
        options.version,
        recipe=recipe_path(options.recipe),
        suite=options.suite,
        against=options.against,
        run=options.run or new_run(),
        overrides=options.set,
    )
    print(json.dumps(found) if options.json else f"{table(found)}\n\nreport {found['report']}")
    return 0


def _page(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.page import model_page, models_page

    print(json.dumps(model_page(places, options.model) if options.model else models_page(places)))
    return 0


def _report(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.page import report_page

    print(report_page(places, options.run).decode(), end="")
    return 0


def _watchdog(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.watchdog import Limits, as_json, look

    limits = Limits(
        stale=datetime.timedelta(hours=options.stale_hours),
        approval=datetime.timedelta(hours=options.approval_hours),
        free_bytes=int(options.free_gb * 1e9),
    )
    findings = look(places, limits)
    if options.json:
        print(as_json(findings))
    else:
        for each in findings:
            print(f"{each.check}: {each.subject}: {each.words}\n    {each.remedy}")
        print(f"{len(findings)} findings" if findings else "nothing to report")
    return FOUND if findings else 0


def _costs(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.costs import print_costs

    print_costs(places, options.name, as_json=options.json)
    return 0


def _budget(options: argparse.Namespace, places: Settings) -> int:
    from tasks.recipe.models import Budget
    from tasks.runner.costs import raise_budget

    limit = Budget(device_hours=options.device_hours, cost=options.cost)
    print(raise_budget(places, options.plan, limit, options.by, options.reason))
    return 0


def _corpus(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner import corpora

    if options.action == "list":
        corpora.print_corpora(places)
    elif options.action == "look":
        return 0 if corpora.look_for_new(places, options.name, options.run) else UNCHANGED
    elif options.action == "drift":
        return 0 if corpora.tell_drift(places, options.name, options.date, options.run) else UNCHANGED
    else:
        corpora.print_corpus(places, options.name, as_json=options.json)
    return 0


def _gc(options: argparse.Namespace, places: Settings) -> int:
    from tasks.runner.garbage import collect

    runs = options.runs_older_than
    collect(
        places,
        older_than=datetime.timedelta(days=options.older_than),
        runs_older_than=None if runs is None else datetime.timedelta(days=runs),
        apply=options.apply,
    )
    return 0


def _catalogue(_: argparse.Namespace, __: Settings) -> int:
    from tasks.runner.catalogue import write

    path = Path(__file__).parent / "recipe" / "catalogue.json"
    write(path)
    print(path)
    return 0


def _up(_: argparse.Namespace, places: Settings) -> int:
    from tasks.local.services import up

    return up(places)


def _down(_: argparse.Namespace, places: Settings) -> int:
    from tasks.local.services import down

    return down(places)


def _demo(_: argparse.Namespace, places: Settings) -> int:
    from tasks.local.demo import demo

    return demo(places)


def new_run() -> str:
    """An id for a run started by hand: the time, and four letters against two starts in one second."""
    now = datetime.datetime.now(datetime.UTC)
    return f"cli__{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def _print_preview(plan: Plan, seen: list[Preview]) -> None:
    from rich.console import Console
    from rich.table import Table

    from tasks.recipe.gate_sets.expand import said

    table = Table(box=None, pad_edge=False, title=f"{plan.recipe}: {len(seen)} steps", title_justify="left")
    for column in ("step", "stage/method", "", "why"):
        table.add_column(column, overflow="fold")
    for column in ("tokens", "steps", "memory", "disk"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in seen:
        need = each.estimate
        table.add_row(
            each.step.name,
            f"{each.step.stage}/{each.step.method}",
            "cached" if each.cached else "runs",
            "; ".join(each.reasons),
            f"{need.tokens:,}" if need and need.tokens is not None else "",
            f"{need.optimiser_steps:,}" if need and need.optimiser_steps is not None else "",
            _bytes(need.memory_bytes) if need else "",
            _bytes(need.disk_bytes) if need else "",
        )
    console = Console(soft_wrap=True)
    # Off a terminal there is no width to fit into, and a folded table cannot be searched.
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table, highlight=False, markup=False)
    for gate in plan.release.gates if plan.release else ():
        console.print(f"gate {gate.gate} ({gate.severity}): {said(gate)}", highlight=False, markup=False)


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perennial",
        description="Keeps a language model current: recipes in, evaluated and promoted models out.",
        epilog="Settings: PERENNIAL_HOME (default ./.perennial), PERENNIAL_STORE (file:// or s3://), "
        "MLFLOW_TRACKING_URI. Exit codes: 0 done, 2 the recipe or an option is wrong, 3 the data is wrong, "
        "4 out of memory, 5 preempted, 6 store, MLflow or disk, 7 diverged, 8 the gates refuse, "
        "9 over budget, 10 no change, 11 approved by one of two people, 1 a bug.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Callable[..., int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    check = add("check", _check, "check recipes whole: every problem with its line and a remedy")
    check.add_argument("recipe", nargs="+")
    plan = add("plan", _plan, "what a run would do: cached or not and why, tokens, steps, memory, disk")
    run = add("run", _run, "run a recipe on this machine, without Airflow")
    for sub in (plan, run):
        sub.add_argument("recipe")
        sub.add_argument(
            "--refresh", action="append", default=[], metavar="STEP", help="run STEP although cached"
        )
        sub.add_argument("--run", metavar="ID", help="the run's id (default: made from the time)")
        sub.add_argument("--from-run", metavar="ID", help="take up this run again ...")
        sub.add_argument("--from-step", metavar="STEP", help="... from STEP on; what is before it is reused")
    for sub in (check, plan, run):
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="e.g. steps.adapted.options.lr=2e-4",
        )
    plan.add_argument(
        "--freeze", action="store_true", help="write the plan into the store for `perennial step`"
    )
    step = add("step", _step, "run one step of a frozen plan (what every pod runs)")
    step.add_argument("--plan", required=True, metavar="URI")
    step.add_argument("--step", required=True, metavar="NAME")
    step.add_argument("--fresh", action="store_true", help="start at 0 although progress was recorded")
    ended = add("outcome", _outcome, "how an attempt of a step ended, from what it left in the store; JSON")
    ended.add_argument("--plan", required=True, metavar="URI")
    ended.add_argument("--step", required=True, metavar="NAME")
    ended.add_argument("--attempt", required=True, metavar="ID", help="its PERENNIAL_ATTEMPT")
    ended.add_argument("--killed-for-memory", action="store_true", help="it was seen to be; keep that")
    for name, function, text in (
        ("unchanged", _unchanged, "exit 10 where the run of a plan had nothing to do, else 0"),
        (
            "register",
            _register,
            "judge the gates and register the candidate; exit 10 for no change, 8 refused",
        ),
    ):
        add(name, function, text).add_argument("--plan", required=True, metavar="URI")
    summary = add("summary", _summary, "the evidence for a candidate, as the approval shows it")
    summary.add_argument("--json", action="store_true", help="with the version and how many must approve")
    promote = add(
        "promote",
        _promote,
        "make a version the champion; the ledger says who and why; exit 11 where another must approve too",
    )
    reject = add("reject", _reject, "record that a candidate was not promoted")
    for sub in (summary, promote, reject):
        sub.add_argument("--plan", metavar="URI", help="the plan whose candidate is meant")
        sub.add_argument("--model", help="or: the registered model ...")
        sub.add_argument("--version", help="... and its version number or alias")
    promote.add_argument(
        "--over",
        default="",
        metavar="VERSION",
        help="although it was judged against another than this champion",
    )
    promote.add_argument(
        "--smoke-elsewhere",
        action="store_true",
        help="a smoke test that passed within the hour counts, and `perennial smoke --after` repeats it "
        "(Airflow's tasks)",
    )
    rollback = add("rollback", _rollback, "put the previous champion back")
    rollback.add_argument("model")
    rollback.add_argument("--run", metavar="ID", help="a retry with the same id changes nothing")
    for flag, words in (("from", "refuse unless this is the champion"), ("to", "... this the previous one")):
        rollback.add_argument(f"--{flag}", dest=f"{flag}_version", default="", metavar="VERSION", help=words)
    sign = add("sign", _sign, "vouch for a version that has no signature of a trusted key")
    sign.add_argument("model")
    sign.add_argument("version", help="its number or alias")
    delete = add("delete", _delete, "remove a version that no alias, ledger line or other version needs")
    card = add("card", _card, "the model card of a version")
    card.add_argument("--write", action="store_true", help="make it from its run's records where it has none")
    show = add("show", _show, "all that a version leads to: data, recipe, code, steps, parents, gates, cost")
    for sub in (delete, card, show):
        sub.add_argument("model")
        sub.add_argument("version", help="its number or alias")
    budget = add(
        "budget", _budget, "give a run that its budget stopped another one; then start its step again"
    )
    budget.add_argument("--plan", required=True, metavar="URI", help="the plan of the run")
    budget.add_argument("--device-hours", type=_positive, metavar="HOURS", help="what the whole run may take")
    budget.add_argument(
        "--cost", type=_positive, metavar="PRICE", help="the same in the price table's currency"
    )
    for sub in (promote, reject):
        sub.add_argument("--by", action="append", help="who decides; once for each of two who approve")
    for sub in (rollback, sign, delete, card, budget):
        sub.add_argument("--by", default=os.environ.get("USER", "unknown"), help="who decides")
    for sub in (promote, reject, rollback, delete, budget):
        sub.add_argument("--reason", default="", help="why, for the ledger")
    costs = add(
        "costs", _costs, "device hours, cost and energy: of all models, of a model, or of a run by step"
    )
    costs.add_argument("name", nargs="?", metavar="MODEL|RUN")
    costs.add_argument("--json", action="store_true")
    _add_corpus(add)
    add("key", _key, "the key that signs releases: its id and its public half; made now on a laptop")
    models = add("models", _models, "every registered model: champion, candidate, previous, versions")
    compare = add(
        "compare", _compare, "two versions: figures on the same items, flips, what differs in lineage"
    )
    compare.add_argument("model")
    compare.add_argument("a", help="a version's number or alias")
    compare.add_argument("b", help="another's")
    history = add("history", _history, "who promoted what, when, from what, on what evidence, why")
    history.add_argument("model")
    history.add_argument("--at", metavar="DATE", help="which version was champion then (ISO date or time)")
    audit = add(
        "audit", _audit, "account for every version: weights, data, recipe, report, card, parents, ledger"
    )
    audit.add_argument("model", nargs="?", help="only this one")
    audit.add_argument("--repair", action="store_true", help="first move MLflow to what the ledger says")
    for sub in (models, show, compare, history, audit):
        sub.add_argument("--json", action="store_true", help="for machines; docs/commands.md has the shapes")
    add("registry", _registry, "the versions and aliases of a model").add_argument("model")
    export = add("export", _export, "write a version into a new folder, as another system reads it")
    smoke = add("smoke", _smoke, "load a version and compare its answer with the recorded one; exit 3 if not")
    delta = add("delta", _delta, "keep a version's weights as an exact difference from another version's")
    for sub in (export, delta):
        sub.add_argument("model")
        sub.add_argument("version", help="its number or alias")
    smoke.add_argument("model", nargs="?")
    smoke.add_argument("version", nargs="?", help="its number or alias")
    export.add_argument("--to", required=True, choices=("huggingface", "gguf", "vllm"))
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    export.add_argument("--outtype", default="auto", help="gguf: auto, f32, f16, bf16 or q8_0")
    delta.add_argument("--base", metavar="VERSION", help="number, alias or digest (default: the champion)")
    delta.add_argument("--restore", action="store_true", help="put the weights back whole")
    smoke.add_argument("--plan", metavar="URI", help="instead of a model: the candidate of this run")
    smoke.add_argument("--record", action="store_true", help="its answer now is the right one")
    smoke.add_argument("--if-missing", action="store_true", help="with --record: unless one is recorded")
    smoke.add_argument("--after", action="store_true", help="it was just promoted: says how to take it back")
    smoke.add_argument("--prompt", metavar="TEXT", help="instead of the recipe's release.smoke")
    smoke.add_argument("--tokens", type=int, metavar="N", help="tokens of the answer (default 16)")
    smoke.add_argument("--chat", action="store_true", help="the prompt is a user's message")
    add("deliver", _deliver, "tell the webhook of what it was not told yet")
    evaluate = add("evaluate", _evaluate, "measure a registered version on a suite; trains nothing")
    evaluate.add_argument("model")
    evaluate.add_argument("version", help="its number or alias")
    evaluate.add_argument(
        "--recipe", required=True, help="the recipe that has the suite: a file, or its name"
    )
    evaluate.add_argument("--suite", metavar="STEP", help="its evaluate step (default: that of its release)")
    evaluate.add_argument("--against", metavar="VERSION", help="another version to compare with as the base")
    evaluate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `plan`")
    evaluate.add_argument("--run", metavar="ID", help="the run's id (default: made from the time)")
    evaluate.add_argument("--json", action="store_true")
    page = add("page", _page, "everything that the page of a model shows; JSON")
    page.add_argument("model", nargs="?", help="all models, in short, where it is left out")
    add("report", _report, "the report of a run, as HTML").add_argument("run")
    watchdog = add("watchdog", _watchdog, "what nobody would notice by itself; exit 12 if there is anything")
    watchdog.add_argument(
        "--stale-hours", type=float, default=6.0, help="a run that wrote nothing for so long"
    )
    watchdog.add_argument("--approval-hours", type=float, default=24.0, help="a candidate that waits so long")
    watchdog.add_argument("--free-gb", type=float, default=5.0, help="a disk with less than this")
    watchdog.add_argument("--json", action="store_true")
    gc = add("gc", _gc, "say what no plan, version or ledger line refers to; remove it with --apply")
    gc.add_argument("--apply", action="store_true")
    gc.add_argument("--older-than", type=float, default=1.0, metavar="DAYS", help="what is younger stays")
    gc.add_argument(
        "--runs-older-than",
        type=float,
        metavar="DAYS",
        help="runs older than this keep only what their versions need: weights, report, data, parents",
    )
    add("catalogue", _catalogue, "write tasks/recipe/catalogue.json from the stages' tables")
    add("up", _up, "start MLflow and Airflow on this machine and leave them up")
    add("down", _down, "stop them")
    add("demo", _demo, "the whole main job on real text: train, approve, promote")
    return parser


def _add_corpus(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The parser of `corpus`, whose first word is what to do with it."""
    actions = add("corpus", _corpus, "new data: look for it, its slices by date, its drift").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    actions.add_parser("list", help="every corpus and its newest slice")
    look = actions.add_parser("look", help="register what is new as slices; exit 10 where nothing is")
    look.add_argument(
        "--run", default="", metavar="ID", help="a retry with the same id gives the same answer"
    )
    show = actions.add_parser("show", help="its slices by date, and their drift")
    show.add_argument("--json", action="store_true")
    drift = actions.add_parser(
        "drift", help="compare a slice with what the champion learned from; exit 3 above the corpus's limits"
    )
    which = drift.add_mutually_exclusive_group()
    which.add_argument("--date", help="the slice's date (default: the newest)")
    which.add_argument("--run", default="", metavar="ID", help="every slice that this look was given")
    for sub in (look, show, drift):
        sub.add_argument("name")


if __name__ == "__main__":
    sys.exit(main())
