"""The documentation names only what exists: files, tests, headings, commands. The runbook has every alert."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
import yaml

from tasks import cli
from tasks.recipe.failures import Failure
from tasks.release import audit, gates
from tasks.runner import watchdog
from tests.unit.k8s.rendered import overlay

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TREES = ("tasks/", "tests/", "dags/", "docs/", "recipes/", "benchmarks/")
PATH = re.compile(r"`((?:" + "|".join(TREES) + r")[\w./-]*|test_\w+\.py::\w+)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
NOT_TRIED = "**not tried here**"


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(bare)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = []
    for target, anchor in LINK.findall(text):
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            missing.append(f"{target}#{anchor}")
    for path, name in PATH.findall(text):
        if "::" in path:
            path, name = path.split("::")
            found = list((ROOT / "tests").rglob(path))
        else:
            found = [ROOT / path] if (ROOT / path).exists() else []
        if not found or (name and not any(f"def {name}(" in file.read_text() for file in found)):
            missing.append(f"{path}::{name}" if name else path)
    assert not missing


@pytest.mark.parametrize("number", range(1, 28))
def test_every_pain_has_a_test_of_its_number(number: int) -> None:
    """That a test which is named exists, the test above looks after."""
    page = (ROOT / "docs" / "pains.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| P{number} \|.*$", page, re.MULTILINE)
    assert re.search(rf"`test_\w+\.py::test_(p\d+_)*p{number}_", row)


def entries() -> dict[str, str]:
    """Title -> text of each entry of the runbook, with that of its part's beginning."""
    found = {}
    for part in re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]:
        head, *sections = re.split(r"^### ", part, flags=re.MULTILINE)
        beginning = head if head.startswith("Prometheus") else ""
        for section in sections:
            title, _, text = section.partition("\n")
            found[title] = beginning + text
    return found


def told(kind: str) -> set[str]:
    """What the runbook has of a kind: of `Watchdog: disk`, disk."""
    return {title.partition(": ")[2] for title in entries() if title.startswith(f"{kind}: ")}


def in_words(names: set[str]) -> set[str]:
    return {name.lower().replace("_", " ") for name in names}


def prometheus() -> list[dict[str, dict[str, str]]]:
    rules = yaml.safe_load((ROOT / "k8s" / "monitoring" / "rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def notices() -> tuple[str, ...]:
    """The events of dags/shared/notify.py, which only Airflow's path can import."""
    text = (ROOT / "dags" / "shared" / "notify.py").read_text(encoding="utf-8")
    (line,) = re.findall(r"^EVENTS = \((.*)\)$", text, re.MULTILINE)
    return tuple(re.findall(r'"(\w+)"', line))


def audited() -> set[str]:
    kinds = audit.Finding.model_fields["part"].annotation
    return {name for each in get_args(kinds) for name in (get_args(each) or (each,))}


def test_the_runbook_has_every_alert_and_no_other() -> None:
    assert told("Failure") == in_words({each.name for each in Failure})
    assert told("Watchdog") == set(get_args(watchdog.Check))
    assert told("Audit") == audited()
    assert len(audited()) == 11
    assert told("Notice") == set(notices())
    assert len(notices()) == 7
    assert told("Gate") == set(get_args(gates.Verdict)) - {
        "passed",
        "failed",
    }  # failed: Failure: gates failed
    assert {title for title in entries() if re.fullmatch(r"Perennial\w+", title)} == {
        str(rule["alert"]) for rule in prometheus()
    }


def test_the_table_leads_to_every_entry() -> None:
    table = RUNBOOK.partition("\n## ")[0]
    linked = {anchor for target, anchor in LINK.findall(table) if not target}
    titles = {title for title in entries() if not re.fullmatch(r"Perennial\w+", title)}
    assert [title for title in titles if not anchors(f"# {title}") & linked] == []


def test_prometheus_leads_to_the_runbook() -> None:
    for rule in prometheus():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert anchor in anchors((ROOT / page).read_text(encoding="utf-8")), rule["alert"]


@pytest.mark.parametrize("title", entries())
def test_an_entry_shows_the_alert_says_what_to_do_and_which_test_tried_it(title: str) -> None:
    text = entries()[title]
    assert re.search(r"^> `", text, re.MULTILINE), "no message"
    assert re.search(r"`test_\w+\.py::\w+`", text), "no test"
    if title.startswith("Perennial"):
        assert NOT_TRIED in text, "it must say that the remedy needs a cluster"
    else:
        assert "\nTried by `" in text
        assert NOT_TRIED not in text


def literals() -> set[str]:
    """Every piece of text of ten characters or more that the code can say."""
    found = set()
    for path in [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "dags").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {piece.strip() for piece in re.split(r"\n|`|\{\w+\}", node.value)}
    return {piece for piece in found if len(piece) >= 10}


def test_the_messages_are_those_of_the_code() -> None:
    """Those of Prometheus are compared with its rules, and raised, in tests/unit/k8s/test_alerts.py."""
    part = RUNBOOK.partition("\n## Prometheus")[0]
    said = re.findall(r"^> `(.*)`", part, re.MULTILINE)
    assert len(said) > 50
    pieces = literals()
    strange = [line for line in said if not any(piece in line for piece in pieces)]
    assert strange == [  # Python's own words, and a headline of short pieces
        "first: bug: ZeroDivisionError: division by zero",
        "train__pydocs: task adapted failed",
    ]


PLACEHOLDERS = {"N": "1", "HOURS": "1"}


def commands() -> list[str]:
    """Every command of ours that a line of the runbook says to type; not those inside messages."""
    said = "\n".join(line for line in RUNBOOK.splitlines() if not line.startswith(">"))
    return sorted(set(re.findall(r"`perennial ([^`]+)`", said)))


def test_the_runbook_has_commands() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_runbook_can_be_typed(command: str) -> None:
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(" ".join(command.split()))]
    try:
        cli._parser().parse_args(words)
    except SystemExit as error:
        pytest.fail(f"perennial {command}: ends with {error.code}")


def test_kubectl_asks_for_what_the_manifests_have() -> None:
    """Names that the remedies give to kubectl; Airflow's own objects are its chart's."""
    made = [*overlay("dev"), *overlay("prod")]
    names = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in made}
    labels = {
        f"{key}={value}"
        for each in made
        for key, value in each.get("spec", {})
        .get("template", {})
        .get("metadata", {})
        .get("labels", {})
        .items()
    }
    asked = re.findall(r"`(kubectl [^`]+)`", RUNBOOK)
    assert len(asked) > 8
    for command in asked:
        for name in re.findall(r"\b(?:job|deployment)/[a-z-]+", command):
            assert name in names or name.startswith("deployment/airflow-"), command
        for label in re.findall(r"-l (\S+)", command):
            assert label in labels or label.startswith("component="), command
