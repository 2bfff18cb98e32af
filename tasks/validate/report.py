"""The result of a validation: result.json for programs and page.html for people. Neither holds rows' text."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.validate.suite import Outcome


@dataclass(frozen=True)
class Checked:
    """One dataset and what the rules found in it.

    Attributes:
        name: What the recipe calls it.
        kind: The kind of its rows.
        digest: Which artefact it is.
        rows: How many rows it has.
        outcomes: One for each rule.
        leaked_into: Training dataset -> rows of this exam whose text stands in it.
    """

    name: str
    kind: str
    digest: str
    rows: int
    outcomes: Sequence[Outcome]
    leaked_into: Mapping[str, int] = field(default_factory=dict)


def broken(datasets: Sequence[Checked], severity: str) -> list[tuple[Checked, Outcome]]:
    """The broken rules of a severity, with their datasets."""
    return [
        (dataset, outcome)
        for dataset in datasets
        for outcome in dataset.outcomes
        if not outcome.passed and outcome.rule.severity == severity
    ]


def figure(datasets: Sequence[Checked]) -> str:
    """The main figure, such as "0 stops, 2 warnings in 31 rules"."""
    stops, warnings = len(broken(datasets, "stop")), len(broken(datasets, "warn"))
    rules = sum(len(dataset.outcomes) for dataset in datasets)
    return f"{stops} stop{'s'[: stops != 1]}, {warnings} warning{'s'[: warnings != 1]} in {rules} rules"


def complaint(datasets: Sequence[Checked], where: Path) -> str:
    """The message about broken stop rules: dataset, rule, count, first keys and reason of each."""
    lines = [f"the data broke {len(broken(datasets, 'stop'))} stop rule(s):"]
    for dataset, outcome in broken(datasets, "stop"):
        keys = ", ".join(outcome.first_keys)
        count = f"{outcome.failed} of {outcome.checked} rows" if outcome.rule.column else "no rows"
        into = ", ".join(f"{name} ({number})" for name, number in dataset.leaked_into.items() if number)
        lines.append(
            f"  {dataset.name}: {outcome.rule.name}: {count}"
            + (f", first keys: {keys}" if keys else "")
            + (f", found in: {into}" if into and outcome.rule.name == "leakage" else "")
            + f". {outcome.rule.reason}"
        )
    lines.append(
        f"Mend the data, or relax a rule in the step's options (warn, skip). Page: {where / 'page.html'}"
    )
    return "\n".join(lines)


def write(datasets: Sequence[Checked], directory: Path) -> None:
    """Write result.json and page.html, the same bytes for the same findings."""
    directory.mkdir(parents=True, exist_ok=True)
    result = json.dumps(as_json(datasets), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (directory / "result.json").write_text(result, encoding="utf-8")
    (directory / "page.html").write_text(page(datasets), encoding="utf-8")


def as_json(datasets: Sequence[Checked]) -> dict[str, Any]:
    """What result.json holds."""
    return {
        "figure": figure(datasets),
        "stops": len(broken(datasets, "stop")),
        "warnings": len(broken(datasets, "warn")),
        "datasets": [
            {
                "name": dataset.name,
                "kind": dataset.kind,
                "digest": dataset.digest,
                "rows": dataset.rows,
                "leaked_into": dict(dataset.leaked_into),
                "rules": [_outcome_as_json(outcome) for outcome in dataset.outcomes],
            }
            for dataset in datasets
        ],
    }


def page(datasets: Sequence[Checked]) -> str:
    """One page for people, without anything to load."""
    sections = "".join(_section(dataset) for dataset in datasets)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Validation: {figure(datasets)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>Validation</h1><p class=figure>{figure(datasets)}</p>\n{sections}</body></html>\n"
    )


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    rule = outcome.rule
    return {
        "rule": rule.name,
        "severity": rule.severity,
        "passed": outcome.passed,
        "checked": outcome.checked,
        "failed": outcome.failed,
        "share": outcome.failed / outcome.checked if outcome.checked else 0.0,
        "tolerated": rule.tolerated,
        "limits": [rule.low, rule.high],
        "first_keys": list(outcome.first_keys),
        "reason": rule.reason,
    }


def _section(dataset: Checked) -> str:
    rows = "".join(_row(outcome) for outcome in dataset.outcomes)
    leaks = "".join(
        f"<li>{number} rows stand in <b>{html.escape(name)}</b></li>"
        for name, number in dataset.leaked_into.items()
        if number
    )
    return (
        f"<h2>{html.escape(dataset.name)}</h2>"
        f"<p>{dataset.rows:,} rows, {dataset.kind}, <code>{dataset.digest[:12]}</code></p>"
        "<div class=wide><table><thead><tr><th>Rule<th>State<th>Rows checked<th>Broken by<th>Tolerated"
        f"<th>First keys<th>Why it is a rule</tr></thead>\n<tbody>{rows}</tbody></table></div>"
        + (f"<ul>{leaks}</ul>" if leaks else "")
        + "\n"
    )


def _row(outcome: Outcome) -> str:
    rule = outcome.rule
    state = "passed" if outcome.passed else {"stop": "stop", "warn": "warning"}[rule.severity]
    share = f" ({outcome.failed / outcome.checked:.2%})" if outcome.failed and outcome.checked else ""
    keys = "<br>".join(f"<code>{html.escape(key)}</code>" for key in outcome.first_keys)
    return (
        f"<tr class={state}><td>{rule.name}<td><span>{state}</span><td class=n>{outcome.checked:,}"
        f"<td class=n>{outcome.failed:,}{share}<td class=n>{rule.tolerated:.2%}<td>{keys}"
        f"<td>{html.escape(rule.reason)}</tr>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --stop: #c62828; --warning: #b26a00; --passed: #2e7d32 }
@media (prefers-color-scheme: dark) { :root { --stop: #ff8a80; --warning: #ffcc80; --passed: #a5d6a7 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
.figure { font-size: 1.3rem } .wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem; border-bottom: 1px solid var(--line) }
.n { text-align: right; font-variant-numeric: tabular-nums } span { font-weight: 600 }

.stop span { color: var(--stop) }
.warning span { color: var(--warning) } .passed span { color: var(--passed) }
code { font-size: .9em; overflow-wrap: anywhere }
"""
