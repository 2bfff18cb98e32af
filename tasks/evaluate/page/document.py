"""report.html: the verdict first, then what differs, what could not be seen, and how it was measured."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate.page.differences import differences
from tasks.evaluate.page.parts import document, section
from tasks.evaluate.page.plots import curve
from tasks.evaluate.page.tables import figures, flips, probes, slices
from tasks.evaluate.page.words import ROLES, SIGNS, change, figure, main_entries, measured, signed
from tasks.evaluate.trainings import trainings_table

MARKS = ("<!-- verdict -->", "<!-- gates -->", "<!-- changes -->", "<!-- mixture -->", "<!-- run -->")
"""Where the release stage (tasks/release/verdict.py) writes the verdict, the gates, what changed and why,
what the candidate was fed, and where it came from and what it cost. It uses the classes of
tasks/evaluate/page/style.py."""

MOST_CARDS = 8

Report = Mapping[str, Any]


def page(
    report: Report,
    logs: Mapping[str, Sequence[tuple[float, float]]],
    *,
    restricted: bool = False,
) -> str:
    """The whole page.

    Args:
        report: The content of report.json, schema 2.
        logs: Training step -> (tokens, loss) points.
        restricted: There is a restricted page beside this one.
    """
    subject = html.escape(report["models"]["model"]["ref"])
    sections = [
        section("Verdict", "", f'<div class="later">{MARKS[0]}</div>'),
        _cards(report),
        section("Gates", "", f'<div class="later">{MARKS[1]}</div>'),
        differences(report["sets"]),
        flips(report, restricted=restricted),
        slices(report["sets"]),
        probes(report, restricted=restricted),
        section("What changed and why", "", f'<div class="later">{MARKS[2]}</div>'),
        _training(logs, report.get("trainings", {})),
        section("Lineage and cost", "", f'<div class="later">{MARKS[4]}</div>'),
        figures(report),
        _manifest(report),
    ]
    head = f"<header><h1>Evaluation of {subject}</h1><p>{_compared(report['models'])}</p></header>"
    return document(f"Evaluation of {subject}", head + "\n".join(each for each in sections if each))


def _compared(models: Mapping[str, Any]) -> str:
    words = []
    for role in ROLES:
        if models[role] is None:
            words.append(f"no {role}")
        elif models[role]["digest"] == models["model"]["digest"]:
            words.append(f"the {role} <b>{html.escape(models[role]['ref'])}</b>, which is this same model")
        else:
            ref = "" if models[role]["ref"] == role else f" <b>{html.escape(models[role]['ref'])}</b>"
            words.append(f"{role}{ref} ({models[role]['digest'][:12]})")
    return f"Model {models['model']['digest'][:12]}, beside " + " and ".join(words)


def _cards(report: Report) -> str:
    cards = []
    beside = report.get("probes", {})
    for entry in main_entries(report["sets"]):
        held = entry["values"]["model"]
        if held is None or entry["name"] in beside:
            continue
        found = next((each for role in ROLES if (each := change(entry, role)) is not None), None)
        line, kind = "nothing to compare with", "undecided"
        if found is not None:
            kind = found.verdict
            line = f"{SIGNS[kind]} {kind}: {signed(found.value)} {found.unit} against the {found.against}"
        cards.append(
            f'<div class="card {kind}"><p class="name">{html.escape(entry["name"])}</p>'
            f'<p class="value">{figure(entry, held["value"])} '
            f'<span class="unit">{"" if entry.get("unit") else measured(entry["measure"])}</span></p>'
            f'<p class="against {kind}">{line}</p></div>'
        )
    return f'<div class="cards">{"".join(cards[:MOST_CARDS])}</div>' if cards else ""


def _training(
    logs: Mapping[str, Sequence[tuple[float, float]]], trainings: Mapping[str, Mapping[str, Any]]
) -> str:
    fed = f'<div class="later">{MARKS[3]}</div>'
    if not logs:
        return section("Training", "", fed)
    note = "The loss that each training step minimised, with a running mean; scales differ between steps."
    drawn = "".join(
        f"<figure><figcaption>{html.escape(name)}</figcaption>{curve(html.escape(name), points)}</figure>"
        for name, points in logs.items()
    )
    return section("Training", note, f'<div class="curves">{drawn}</div>{fed}{_trainings(trainings)}')


def _trainings(trainings: Mapping[str, Mapping[str, Any]]) -> str:
    inner = trainings_table(trainings)
    return f"<details><summary>What each training did and needed</summary>{inner}</details>" if inner else ""


def _manifest(report: Report) -> str:
    manifest = report["manifest"]
    facts = {
        "Manifest": f"<code>{report['manifest_digest'][:16]}</code>",
        "Arithmetic": f"{manifest['dtype']} on the {manifest['device']}",
        "Windows": f"at most {manifest['window']['max_length']} tokens, "
        f"{manifest['window']['stride'] or 'half a window of'} new tokens each",
        "Exam prompt": f"<code>{html.escape(json.dumps(manifest['exam_prompt']))}</code>",
        "Intervals": f"{manifest['bootstrap']['resamples']} paired resamples of items, "
        f"{manifest['bootstrap']['confidence']:.0%}, seed {manifest['bootstrap']['seed']}",
    }
    body = "".join(f"<dt>{name}</dt><dd>{fact}</dd>" for name, fact in facts.items())
    full = html.escape(json.dumps(manifest, indent=1, ensure_ascii=False))
    return section(
        "How it was measured",
        "The same as data: report.json, and gates.json once it is judged.",
        f"<dl>{body}</dl><details><summary>The whole manifest</summary><pre>{full}</pre></details>",
    )
