"""The pages' HTML, from the facts: escaped text, no script but a few lines that open links of other pages."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from perennial_pages.plots import gate_plots

STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --soft: #5b6676; --line: #d9dee6; --back: #fff;
  --card: #f6f8fb; --link: #1d5fc4; --good: #19703a; --bad: #b3261e; --open: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6eaf0; --soft: #a2adbb; --line: #343c48;
  --back: #14181f; --card: #1c222b; --link: #86b6ff; --good: #6fd08c; --bad: #ff8a80; --open: #f0c26a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 24px 48px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 10px; }
a { color: var(--link); } nav { margin-bottom: 14px; } small, .note { color: var(--soft); }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.card h3 { margin: 0; font-size: 13px; color: var(--soft); font-weight: 600; }
.card .big { font-size: 24px; font-weight: 650; margin: 2px 0; }
.banner { border-left: 5px solid var(--bad); background: var(--card); padding: 8px 14px; margin: 14px 0; }
.banner.said { border-color: var(--good); } .banner ul { margin: 4px 0; padding-left: 20px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 6px 12px 6px 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; }
td.number, th.number { text-align: right; white-space: nowrap; }
.badge { border: 1px solid var(--line); border-radius: 20px; padding: 1px 9px; font-size: 12px; }
.badge.champion { border-color: var(--good); color: var(--good); font-weight: 650; }
.badge.candidate { border-color: var(--open); color: var(--open); }
.plots { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 12px; }
svg { width: 100%; height: auto; display: block; } svg .axis { font-size: 11px; fill: var(--soft); }
svg .limit { stroke: var(--text); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .between { stroke-width: 2.5; stroke: var(--open); } svg circle { fill: var(--open); }
svg .passed { fill: var(--good); stroke: var(--good); } svg .failed { fill: var(--bad); stroke: var(--bad); }
.acts { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
form label { display: block; margin: 8px 0 2px; font-size: 13px; color: var(--soft); }
input, select { width: 100%; font: inherit; padding: 6px 8px; color: inherit; background: var(--back);
  border: 1px solid var(--line); border-radius: 6px; }
button { margin-top: 12px; font: inherit; font-weight: 600; padding: 7px 16px; border-radius: 6px;
  cursor: pointer; border: 1px solid var(--link); background: var(--link); color: var(--back); }
button.take-back { border-color: var(--bad); background: var(--bad); }
"""

SCRIPT = """
document.addEventListener("click", function (event) {
  var link = event.target.closest("a[data-outside]");
  if (!link || window.parent === window) return;
  event.preventDefault();
  var copy = window.parent.document.createElement("a");
  copy.href = link.href;
  window.parent.document.body.append(copy);
  copy.click();
  copy.remove();
});
"""
"""Airflow shows the pages in a frame that may not lead its window elsewhere; the window's own links may."""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'; script-src 'sha256-"
    + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    + "'"
)
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox"
)
"""For a report: a page that was made from models and data runs no script, whatever is in it."""

ACTIONS = {
    "register": "registered",
    "approve": "approved",
    "promote": "promoted",
    "reject": "rejected",
    "rollback": "rolled back to",
    "delete": "deleted",
}
HISTORY = 100
"""Lines of the ledger that are shown; `perennial history` has them all."""


def list_page(facts: Mapping[str, Any], base: str) -> str:
    """Every registered model.

    Args:
        facts: As `perennial page` prints them.
        base: Path of the pages, such as /perennial.
    """
    rows = "".join(
        f'<tr><th scope="row"><a href="{base}/models/{quote(each["model"])}">{_text(each["model"])}</a></th>'
        + "".join(f"<td>{_text(each[alias] or '–')}</td>" for alias in ("champion", "candidate", "previous"))
        + "</tr>"
        for each in facts["models"]
    )
    body = (
        _table(["Model", "Champion", "Candidate", "Previous"], rows)
        if rows
        else '<p class="note">No model is registered yet: the first run that passes its gates makes one.</p>'
    )
    return page("Models", f"<h1>Models</h1>{body}")


def model_page(
    facts: Mapping[str, Any],
    base: str,
    airflow: str,
    *,
    tickets: Mapping[str, str],
    said: str = "",
) -> str:
    """All about one model.

    Args:
        facts: As `perennial page MODEL` prints them.
        base: Path of the pages.
        airflow: Path of Airflow, "" at the root.
        tickets: Action (promote, rollback) -> the form's ticket; an action that the user may not take is
            left out.
        said: HTML of what was just done.
    """
    model = str(facts["model"])
    versions = {str(each["version"]): each for each in facts["versions"]}
    wrong = "".join(f"<li>{_text(each)}</li>" for each in facts["problems"])
    mlflow = (
        f' · <a data-outside href="{_text(facts["mlflow"])}/#/models/{quote(model)}">MLflow</a>'
        if facts["mlflow"]
        else ""
    )
    plots = gate_plots(facts["versions"])
    parts = [
        f'<nav><a href="{base}/">Models</a>{mlflow}</nav><h1>{_text(model)}</h1>'
        f'<p class="note">as of {_time(facts["time"])} UTC</p>',
        said,
        f'<div class="banner"><b>Something is wrong</b><ul>{wrong}</ul></div>' if wrong else "",
        '<div class="cards">',
        *(
            _card(alias, versions.get(str(facts[alias])), base)
            for alias in ("champion", "candidate", "previous")
        ),
        _storage(facts),
        "</div>",
        _acts(facts, base, tickets),
        f"<h2>Gates over time</h2>{_legend()}<div class='plots'>{plots}</div>" if plots else "",
        f"<h2>Versions</h2>{_versions(facts['versions'], base, airflow)}",
        f"<h2>History</h2>{_history(facts['history'], versions)}",
    ]
    return page(model, "".join(parts))


def said_page(title: str, words: str, base: str) -> str:
    """A page with a message."""
    return page(title, f'<nav><a href="{base}/">Models</a></nav><h1>{_text(title)}</h1><p>{_text(words)}</p>')


def started(airflow: str, dag: str, run: str) -> str:
    """What is said after a form was sent: which run of Airflow does it, and what comes next."""
    place = f"{airflow}/dags/{quote(dag)}/runs/{quote(run)}"
    if dag == "promote":
        place += "/tasks/approve/required_actions"
        words = "The promotion is asked for. It happens once it is approved on"
        name = "the page with the evidence"
    else:
        words, name = "The rollback is under way:", "its run"
    return f'<div class="banner said">{words} <a data-outside href="{_text(place)}">{name}</a>.</div>'


def page(title: str, body: str) -> str:
    """A whole page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(title)} · Perennial</title>"
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{body}</main><script>{SCRIPT}</script></body></html>"
    )


def _card(alias: str, version: Mapping[str, Any] | None, base: str) -> str:
    if version is None:
        return f'<div class="card"><h3>{alias}</h3><div class="big">none</div></div>'
    failed = [gate for gate in version["gates"] if gate["verdict"] != "passed"]
    gates = f"{len(version['gates']) - len(failed)} of {len(version['gates'])} gates passed"
    report = f' · <a href="{base}/runs/{quote(version["run"])}/report">report</a>' if version["run"] else ""
    return (
        f'<div class="card"><h3>{alias}</h3><div class="big">{_text(version["semantic"] or "?")}</div>'
        f"<div>version {_text(version['version'])}{report}</div>"
        f"<small>{_text(version['why'])}<br>{gates if version['gates'] else 'its gates are not on record'}"
        f"</small></div>"
    )


def _storage(facts: Mapping[str, Any]) -> str:
    hours = [each["device_hours"] for each in facts["versions"] if each["device_hours"] is not None]
    costs: dict[str, float] = {}  # of another currency each: their sum would mean nothing
    for each in facts["versions"]:
        if each["cost"] is not None:
            costs[each["currency"]] = costs.get(each["currency"], 0.0) + each["cost"]
    energy = [each["energy_kwh"] for each in facts["versions"] if each["energy_kwh"] is not None]
    lines = [
        f"{_hours(sum(hours))} of machines" if hours else "",
        " and ".join(_money(cost, currency) for currency, cost in costs.items()),
        f"{sum(energy):,.3g} kWh" if energy else "",
    ]
    return (
        f'<div class="card"><h3>storage and cost of all versions</h3><div class="big">{size(facts["bytes"])}'
        f"</div><small>{'<br>'.join(filter(None, lines)) or 'no costs are on record'}</small></div>"
    )


def _acts(facts: Mapping[str, Any], base: str, tickets: Mapping[str, str]) -> str:
    """The forms: to ask for a promotion, and to roll back."""
    place = f"{base}/models/{quote(facts['model'])}"
    forms = []
    if "promote" in tickets:
        options = "".join(
            f'<option value="{_text(each["version"])}"'
            f"{' selected' if 'candidate' in each['aliases'] else ''}>"
            f"{_text(each['semantic'])} (version {_text(each['version'])}"
            f"{', ' + _text(', '.join(each['aliases'])) if each['aliases'] else ''})</option>"
            for each in facts["versions"]
            if "champion" not in each["aliases"]
        )
        if options:
            forms.append(
                f'<form class="card" method="post" action="{place}/promote"><h3>Promote</h3>'
                f'<label for="version">Version</label><select id="version" name="version">{options}</select>'
                f"{_reason('promote')}{_ticket(tickets['promote'])}"
                f'<button type="submit">Ask for promotion</button> <small>The evidence is shown and the '
                f"decision asked for next.</small></form>"
            )
    if "rollback" in tickets and facts["champion"] and facts["previous"]:
        forms.append(
            f'<form class="card" method="post" action="{place}/rollback"><h3>Roll back</h3>'
            f"<p>Version {_text(facts['previous'])} goes back into production in the place of "
            f"{_text(facts['champion'])}, at once.</p>{_reason('rollback')}{_ticket(tickets['rollback'])}"
            f"{_hidden('champion', facts['champion'])}{_hidden('previous', facts['previous'])}"
            f'<button class="take-back" type="submit">Roll back</button></form>'
        )
    return f'<h2>Decide</h2><div class="acts">{"".join(forms)}</div>' if forms else ""


def _reason(act: str) -> str:
    return (
        f'<label for="reason-{act}">Reason, for the ledger</label>'
        f'<input id="reason-{act}" name="reason" required maxlength="1000">'
    )


def _ticket(ticket: str) -> str:
    return _hidden("ticket", ticket)


def _hidden(name: str, value: object) -> str:
    return f'<input type="hidden" name="{name}" value="{_text(value)}">'


def _versions(versions: Sequence[Mapping[str, Any]], base: str, airflow: str) -> str:
    rows = []
    currencies = {each["currency"] for each in versions if each["cost"] is not None}
    common = currencies.pop() if len(currencies) == 1 else ""  # said once, where it is of every cost
    for each in versions:
        badges = " ".join(f'<span class="badge {_text(a)}">{_text(a)}</span>' for a in each["aliases"])
        run = str(each["run"])
        links = []
        if run:
            links.append(f'<a href="{base}/runs/{quote(run)}/report">report</a>')
        dag = f"train__{each['recipe']}"
        if each["recipe"]:
            links.append(f'<a data-outside href="{airflow}/dags/{quote(dag)}">recipe</a>')
        two = " (two approvals)" if each["approvals"] > 1 else ""
        rows.append(
            f'<tr><th scope="row">{_text(each["semantic"] or "?")} {badges}<br>'
            f"<small>version {_text(each['version'])}, {_text(each['digest'][:12])}</small></th>"
            f"<td>{_time(each['registered']) if each['registered'] else '–'}</td>"
            f"<td>{_text(each['why'])}{two}<br><small>{_text(run)}</small></td>"
            f'<td class="number">{size(each["bytes"]) if each["bytes"] is not None else "missing"}</td>'
            f'<td class="number">{_hours(each["device_hours"])}</td>'
            f'<td class="number">{_money(each["cost"], "" if common else each["currency"])}</td>'
            f"<td>{' · '.join(links)}</td></tr>"
        )
    heads = [
        "Version",
        "Registered (UTC)",
        "What changed",
        "Size",
        "Machines",
        f"Cost ({_text(common)})" if common else "Cost",
        "",
    ]
    return _table(heads, "".join(rows), numbers=(3, 4, 5))


def _history(lines: Sequence[Mapping[str, Any]], versions: Mapping[str, Mapping[str, Any]]) -> str:
    def named(number: object) -> str:
        known = versions.get(str(number))
        return _text(known["semantic"] if known and known["semantic"] else f"version {number}")

    rows = "".join(
        f"<tr><td>{line['seq']}</td><td>{_time(line['time'])}</td><td>{_text(line['actor'])}</td>"
        f"<td>{_text(ACTIONS.get(line['action'], line['action']))} <b>{named(line['to_version'])}</b>"
        f"{_from(line, named)}</td>"
        f"<td>{_text(line['reason'])}</td></tr>"
        for line in lines[:HISTORY]
    )
    more = f'<p class="note">and {len(lines) - HISTORY} lines before</p>' if len(lines) > HISTORY else ""
    return _table(["#", "Time (UTC)", "Who", "What", "Why"], rows) + more


def _from(line: Mapping[str, Any], named: Callable[[object], str]) -> str:
    """The version that was in production before, where the line moved it."""
    if line["action"] not in ("promote", "rollback") or line["from_version"] is None:
        return ""
    return f" <small>from {named(line['from_version'])}</small>"


def _money(cost: float | None, currency: str) -> str:
    """A cost in its currency: cents, and less than a cent by its first two digits."""
    if cost is None:
        return "–"
    words = f"{cost:,.2f}" if cost >= 0.01 or not cost else f"{cost:.2g}"
    return f"{words} {_text(currency)}".rstrip()


def _legend() -> str:
    return (
        '<p class="note">A point is a version with its interval: green passed, red failed, yellow was not '
        "decided. The dashed line is the limit; the version in production is bold.</p>"
    )


def _table(heads: Sequence[str], rows: str, numbers: Sequence[int] = ()) -> str:
    head = "".join(
        f'<th scope="col"{" class=number" if place in numbers else ""}>{each}</th>'
        for place, each in enumerate(heads)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def size(count: int) -> str:
    """Bytes as people read them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "–"
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:.1f} h"


def _time(text: str) -> str:
    return _text(str(text)[:16].replace("T", " "))


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
