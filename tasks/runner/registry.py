"""The commands that tell of the registry: models, show, compare, history, audit; and card and delete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.artefacts import ObjectMissing, Store, fetch, open_store
from tasks.recipe.failures import ConfigInvalid
from tasks.release import audit as audits
from tasks.release import story
from tasks.release.aliases import reconcile
from tasks.release.cards import read_card, rewrite
from tasks.release.compare import lineage_differences, recorded
from tasks.release.delete import delete
from tasks.release.whole import model_digest
from tasks.runner.settings import Settings
from tasks.tracking import ledger, registry

UNSOUND = 1
"""Exit code of `audit` where something is wrong."""

WIDTH = 200
"""Columns of a table that is not printed to a terminal: folded, it could not be searched."""


def print_models(settings: Settings, *, as_json: bool) -> None:
    """Every registered model: champion, candidate, previous, and its versions."""
    found = story.model_stories(open_store(settings.store))
    if as_json:
        _print_json([each.model_dump() for each in found])
        return
    if not found:
        _say("no model is registered yet: `perennial run RECIPE` registers one")
        return
    rows = [
        (
            each.model,
            f"{each.champion} ({each.semantic})" if each.champion else "none",
            f"{each.since[:16]} by {each.by}" if each.since else "-",
            each.candidate or "-",
            each.previous or "-",
            str(len(each.versions)),
            "; ".join(each.problems) or "-",
        )
        for each in found
    ]
    _print_table(("model", "champion", "since", "candidate", "previous", "versions", "problems"), rows)


def print_version(settings: Settings, model: str, version: str, *, as_json: bool) -> None:
    """All that a version's tags and the ledger say of it."""
    found = story.version_story(open_store(settings.store), model, version)
    if as_json:
        _print_json(found.model_dump())
        return
    facts: dict[str, Any] = found.model_dump(exclude={"data", "steps", "gates", "decisions"})
    rows = [(name.replace("_", " "), _text(value)) for name, value in facts.items()]
    rows += [(f"data {name}", digest) for name, digest in found.data.items()]
    rows += [(f"step {name}", digest) for name, digest in found.steps.items()]
    rows += [(f"gate {name}", verdict) for name, verdict in found.gates.items()]
    rows += [
        (f"{line.time[:16]} {line.action}", f"by {line.actor}: {line.reason or '-'}")
        for line in found.decisions
    ]
    _print_table(("", ""), rows)


def print_history(settings: Settings, model: str, at: str | None, *, as_json: bool) -> None:
    """The ledger of a model, or who was champion at a date.

    Raises:
        ConfigInvalid: The ledger is empty, or `at` is no date.
    """
    store = open_store(settings.store)
    found = story.history(store, model, at)
    if as_json:
        _print_json(found.model_dump())
        return
    if at is not None:
        _say(
            f"champion of '{model}' at {at}: "
            + (f"version {found.champion}" if found.champion else "none")
            + _because(found)
        )
        return
    if not found.lines:
        raise ConfigInvalid(f"the ledger of '{model}' in {store.uri} is empty: nothing was ever registered")
    rows = [
        (
            str(line.seq),
            line.time,
            line.action,
            line.from_version or "-",
            line.to_version,
            line.actor,
            line.reason,
            line.evidence[:12],
        )
        for line in found.lines
    ]
    _print_table(("#", "time", "what", "from", "to", "by", "why", "evidence"), rows)
    for problem in found.problems:
        Console(soft_wrap=True).print(f"WARNING: {problem}", style="bold red", markup=False)


def print_comparison(settings: Settings, model: str, first: str, second: str, *, as_json: bool) -> None:
    """Two versions: every figure on the same items, the difference with its interval, flips, and the lineage.

    Raises:
        ConfigInvalid: There is no such version.
        Infrastructure: A report is not in the store.
    """
    found = comparison(settings, model, first, second)
    if as_json:
        _print_json(found)
        return
    rows = [
        (
            each["set"],
            each["measure"],
            str(each["items"]),
            _figure(each["a"]),
            _figure(each["b"]),
            _interval(each["difference"], each["low"], each["high"]),
            each["verdict"],
        )
        for each in found["figures"]
    ]
    a, b = found["a"], found["b"]
    heads = (
        "set",
        "measure",
        "items",
        f"{a['version']} ({a['semantic']})",
        f"{b['version']} ({b['semantic']})",
    )
    _print_table((*heads, "difference", ""), rows)
    for each in found["left_out"]:
        _say(f"not compared: {each['set']} {each['measure']}: {each['why']}")
    differ = [(each["what"], each["a"], each["b"]) for each in found["lineage"]]
    if differ:
        _print_table(("what differs", a["version"], b["version"]), differ)
    else:
        _say("the two come from the same data, recipe and code")


def comparison(settings: Settings, model: str, first: str, second: str) -> dict[str, Any]:
    """What `perennial compare --json` prints; an adapter is compared as the whole model made with it."""
    store = open_store(settings.store)
    a, b = (story.version_story(store, model, name) for name in (first, second))
    whole = [model_digest(registry.version(model, each.version)) for each in (a, b)]
    cache = settings.home / "cache" / "artefacts"
    # The second's own report first: where the first was its champion, both stand there side by side.
    reports = [fetch(store, each.report, cache) for each in (b, a) if each.report]
    entries, left_out = _figures(reports, *whole)
    return {
        "model": model,
        "a": {"version": a.version, "semantic": a.semantic, "digest": a.digest},
        "b": {"version": b.version, "semantic": b.semantic, "digest": b.digest},
        "figures": [_entry(each) for each in entries],
        "left_out": [{"set": name, "measure": measure, "why": why} for name, measure, why in left_out],
        "lineage": [
            each.model_dump()
            for each in lineage_differences(a, b, (_plan(store, a.plan), _plan(store, b.plan)))
        ],
    }


def _figures(
    reports: Sequence[Path], first: str, second: str
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Entries of a report about two models, and what they were not compared on."""
    if find_spec("torch") is None:  # the orchestrator's image: what was computed before
        return recorded(reports, first, second)
    from tasks.evaluate.versions import compare

    found = compare(reports, first, second)
    return found.entries, found.left_out


def print_audit(settings: Settings, model: str | None, *, repair: bool, as_json: bool) -> int:
    """Account for every version of a model, or of all; the exit code: 1 where something is wrong.

    Args:
        settings: Where the store and MLflow are.
        model: The registered model; None for all.
        repair: First move MLflow's aliases and notes to what each ledger says.
        as_json: For machines.
    """
    store = open_store(settings.store)
    names = [model] if model else audits.models(store)
    if model and model not in audits.models(store):
        raise ConfigInvalid(f"there is no registered model '{model}': neither MLflow nor a ledger knows it")
    done = {name: reconcile(store, name) for name in names} if repair else {}
    found = [audits.audit(store, name) for name in names]
    if as_json:
        _print_json([each.model_dump() for each in found])
    else:
        for each in found:
            for words in done.get(each.model, ()):
                _say(f"{each.model}: repaired: {words}")
            _print_audit(each)
    return UNSOUND if any(each.findings for each in found) else 0


def card_of(settings: Settings, model: str, version: str, *, write: bool, by: str) -> str:
    """A version's model card; with `write`, made from what its run left where it has no sound one."""
    store, found = open_store(settings.store), registry.version(model, version)
    if write:
        return rewrite(store, found, settings.home / "cache" / "artefacts", by)
    return read_card(store, found)


def delete_version(settings: Settings, model: str, version: str, by: str, reason: str) -> str:
    """Remove a version that nothing needs from MLflow; what was done, in words."""
    line = delete(open_store(settings.store), model, version, by, reason)
    return f"version {line.to_version} of '{model}' deleted by {by}: {reason}; its model stays in the store"


def _print_audit(found: audits.Audit) -> None:
    sound = sum(each.sound for each in found.versions)
    _say(
        f"{found.model}: {sound} of {len(found.versions)} versions are accounted for, {found.lines} lines in "
        f"the ledger"
    )
    for each in found.findings:
        about = f"version {each.version}" if each.version else "the model"
        name = f" {each.name}" if each.name and each.name != each.part else ""
        _say(f"  {about}: {each.part}{name}: {each.problem}")
        _say(f"    what to do: {each.remedy}")


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a report (tasks/evaluate/report.py), with the first version in the champion's place."""
    apart = entry["against"]["champion"]
    values = {name: entry["values"][role] for name, role in (("a", "champion"), ("b", "model"))}
    comparison = values["b"] is None
    verdict = "" if comparison or apart is None else _verdict(entry["better"], apart["low"], apart["high"])
    return {
        "set": entry["name"],
        "measure": entry["measure"],
        "unit": entry["unit"],
        "better": entry["better"],
        "items": entry["items"],
        **{
            name: None if held is None else {key: held[key] for key in ("value", "low", "high")}
            for name, held in values.items()
        },
        "difference": apart["difference"] if apart else None,
        "low": apart["low"] if apart else None,
        "high": apart["high"] if apart else None,
        "relative": apart.get("relative") if apart else None,
        "p_value": apart.get("p_value") if apart else None,
        "count": round(apart["difference"] * entry["items"]) if comparison and apart else None,
        "verdict": verdict,
    }


def _verdict(better: str, low: float, high: float) -> str:
    """What the interval of a difference says."""
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (high < 0) == (better == "lower") else "worse"


def _because(found: story.History) -> str:
    moves = [line for line in found.lines if line.action in ledger.MOVES]
    return f", put there {moves[-1].time} by {moves[-1].actor}: {moves[-1].reason}" if moves else ""


def _plan(store: Store, uri: str) -> dict[str, Any]:
    """A frozen plan as it is written; empty where it is gone."""
    _, _, key = uri.rpartition("/runs/")
    try:
        found: dict[str, Any] = json.loads(store.read(f"runs/{key}")) if key else {}
    except ObjectMissing:
        return {}
    return found


def _figure(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else _interval(value["value"], value["low"], value["high"], sign="")


def _interval(value: float | None, low: float | None, high: float | None, sign: str = "+") -> str:
    if value is None:
        return "-"
    ends = "" if low is None or high is None else f" [{low:{sign}.4g}, {high:{sign}.4g}]"
    return f"{value:{sign}.4g}{ends}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=any(heads))
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table, highlight=False, markup=False)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _say(words: str) -> None:
    Console(soft_wrap=True).print(words, highlight=False, markup=False)
