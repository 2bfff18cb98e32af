"""The report as one self-contained HTML page for people."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate.plots import (
    BETTER,
    UNDECIDED,
    WORSE,
    Change,
    forest,
    loss_curves,
    signed,
    verdict_colour,
)
from tasks.evaluate.trainings import trainings_table

PLACEHOLDER = "<!-- changes -->"
"""Where the release stage inserts what changed since the champion, and why."""

WORDS = {BETTER: "better", WORSE: "worse", UNDECIDED: "undecided"}

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: #f5f7fa; color: #1f2933; line-height: 1.5;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 1000px; margin: 0 auto; padding: 32px 20px 64px }
header p { color: #52606d; margin: 0 }
h1 { font-size: 27px; margin: 0 0 4px; letter-spacing: -.01em }
h2 { font-size: 18px; margin: 0 0 4px }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; padding: 20px 24px;
          margin-top: 20px }
.note { color: #52606d; font-size: 13.5px; margin: 0 0 14px }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px;
         margin-top: 22px }
.card { background: #fff; border: 1px solid #e4e7eb; border-left: 5px solid var(--c); border-radius: 10px;
        padding: 14px 16px }
.card .name { font-weight: 600; font-size: 14px }
.card .value { font-size: 25px; font-weight: 650; letter-spacing: -.02em; margin-top: 2px }
.card .unit { font-size: 13px; font-weight: 400; color: #52606d; letter-spacing: 0 }
.card .against { font-size: 13px; color: var(--c); font-weight: 600 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 8px 10px; border-bottom: 1px solid #e4e7eb; vertical-align: top }
th { color: #52606d; font-weight: 600; font-size: 12.5px }
th:first-child, td:first-child { text-align: left }
td small { display: block; color: #7b8794; font-size: 12px; white-space: nowrap }
svg { width: 100%; height: auto; display: block }
code { font: 12.5px ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; font-size: 13.5px }
dt { color: #52606d } dd { margin: 0 }
details { margin-top: 14px } summary { cursor: pointer; color: #52606d; font-size: 13.5px }
pre { background: #f5f7fa; border-radius: 6px; padding: 12px; overflow-x: auto; font-size: 12px }
.changes:empty::after { content: "Written when the release is decided."; color: #7b8794; font-size: 13.5px }
"""


def page(report: Mapping[str, Any], logs: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """The whole page.

    Args:
        report: The content of report.json.
        logs: Training step -> (tokens, loss) points.
    """
    subject = html.escape(report["models"]["model"]["ref"])
    sets = [entry for entry in report["sets"] if entry["measure"] in ("bits_per_byte", "accuracy")]
    sections = [
        _cards(sets),
        _section("What changed and why", "", f'<div class="changes">{PLACEHOLDER}</div>'),
        _differences(sets),
        _table({**report, "sets": sets}),
        _losses(logs, report["trainings"]),
        _manifest(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation of {subject}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>Evaluation of {subject}</h1><p>{_compared(report['models'])}</p></header>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, note: str, body: str) -> str:
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{note}{body}</section>"


def _compared(models: Mapping[str, Any]) -> str:
    words = []
    for role in ("baseline", "champion"):
        if models[role] is None:
            words.append(f"no {role}")
        elif models[role]["digest"] == models["model"]["digest"]:
            words.append(f"the {role} <b>{html.escape(models[role]['ref'])}</b> is this same model")
        else:
            ref = "" if models[role]["ref"] == role else f" <b>{html.escape(models[role]['ref'])}</b>"
            words.append(f"{role}{ref} ({models[role]['digest'][:12]})")
    return f"Model {models['model']['digest'][:12]}, beside " + " and ".join(words)


def _value(entry: Mapping[str, Any], value: float) -> str:
    return f"{value:.3f}" if entry["measure"] == "bits_per_byte" else f"{100 * value:.1f} %"


def change(entry: Mapping[str, Any], role: str) -> tuple[str, float, float, float, str] | None:
    """A set's difference as people read it: (unit, value, low, high, colour), or None if there is none.

    Bits per byte change in percent of the other model's; accuracy in points.
    """
    found = entry["against"][role]
    if found is None:
        return None
    colour = verdict_colour(found["low"], found["high"], entry["better"])
    keys = ("difference", "low", "high")
    if entry["measure"] == "bits_per_byte" and found["relative"] is not None:
        keys = ("relative", "relative_low", "relative_high")
    value, low, high = (100 * found[key] for key in keys)
    return ("%" if keys[0] == "relative" else "points"), value, low, high, colour


def _cards(sets: Sequence[Mapping[str, Any]]) -> str:
    cards = []
    for entry in sets:
        role = "baseline" if entry["against"]["baseline"] else "champion"
        found = change(entry, role)
        unit = "bits per byte" if entry["measure"] == "bits_per_byte" else "right"
        line, colour = "nothing to compare with", UNDECIDED
        if found is not None:
            unit_of_change, value, _, _, colour = found
            line = f"{WORDS[colour]}: {signed(value)} {unit_of_change} against the {role}"
        cards.append(
            f'<div class="card" style="--c:{colour}"><div class="name">{html.escape(entry["name"])}</div>'
            f'<div class="value">{_value(entry, entry["values"]["model"]["value"])} '
            f'<span class="unit">{unit}</span></div><div class="against">{line}</div></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _differences(sets: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[str, list[Change]] = {"bits_per_byte": [], "accuracy": []}
    for entry in sets:
        for role in ("baseline", "champion"):
            found = change(entry, role)
            if found is not None:
                groups[entry["measure"]].append(Change(entry["name"], role, *found[1:]))
    if not any(groups.values()):
        return ""
    plot = forest(
        [
            ("change in bits per byte, % (left is better)", groups["bits_per_byte"]),
            ("change in accuracy, points (right is better)", groups["accuracy"]),
        ]
    )
    note = (
        "The same items for every model. Lines are paired bootstrap intervals; "
        f'<b style="color:{BETTER}">better</b> and <b style="color:{WORSE}">worse</b> where the interval '
        f'leaves zero out, <b style="color:{UNDECIDED}">undecided</b> where it does not.'
    )
    return _section("Differences", note, plot)


def _table(report: Mapping[str, Any]) -> str:
    roles = [role for role in ("model", "baseline", "champion") if report["models"][role]]
    refs = {role: html.escape(report["models"][role]["ref"]) for role in roles}
    head = "".join(f"<th>{ref}{'' if ref == role else f'<br>{role}'}</th>" for role, ref in refs.items())
    head += "".join(f"<th>against {role}</th>" for role in roles[1:])
    rows = []
    for entry in report["sets"]:
        measure = "bits per byte" if entry["measure"] == "bits_per_byte" else "accuracy"
        cells = f"<td><b>{html.escape(entry['name'])}</b>"
        cells += f"<small>{measure}, {entry['better']} is better</small></td>"
        cells += f"<td>{entry['items']}</td>"
        for role in roles:
            value = entry["values"][role]
            cells += f"<td>{_value(entry, value['value'])}<small>{_value(entry, value['low'])} to "
            cells += f"{_value(entry, value['high'])}</small></td>"
        for role in roles[1:]:
            found = change(entry, role)
            if found is not None:
                unit, value, low, high, colour = found
                cells += f'<td><b style="color:{colour}">{signed(value)} {unit}</b>'
                cells += f"<small>{signed(low)} to {signed(high)}</small></td>"
        rows.append(f"<tr>{cells}</tr>")
    confidence = report["manifest"]["bootstrap"]["confidence"]
    return _section(
        "Figures",
        f"Small figures are {confidence:.0%} intervals over items.",
        f'<div class="scroll"><table><thead><tr><th>Set</th><th>Items</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>",
    )


def _losses(
    logs: Mapping[str, Sequence[tuple[float, float]]], trainings: Mapping[str, Mapping[str, Any]]
) -> str:
    if not logs:
        return ""
    note = "The loss that each training step minimised, with a running mean; scales differ between steps."
    return _section("Training", note, loss_curves(logs) + trainings_table(trainings))


def _manifest(report: Mapping[str, Any]) -> str:
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
    return _section(
        "How it was measured",
        "",
        f"<dl>{body}</dl><details><summary>The whole manifest</summary><pre>{full}</pre></details>",
    )
