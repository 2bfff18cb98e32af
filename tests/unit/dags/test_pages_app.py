"""The pages as a web application inside an Airflow: who may see and do what, and what is started by whom.

Airflow's REST API is a stand-in of two routes here; tests/browser drives the real one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from runtimes.failures import CommandFailed

from tests.page_facts import FACTS

ROOT = Path(__file__).resolve().parents[3]
PAGE = "/perennial/models/pydocs"
SHOWN = {"champion": "2", "previous": "1"}

pytestmark = pytest.mark.slow  # imports Airflow's web server


class Airflow:
    """Airflow around the pages: its user, what the user may, whether DAGs are paused, and what was done."""

    def __init__(self) -> None:
        self.user: str | None = "ada"
        self.may: set[tuple[str, str]] = {("GET", "promote"), ("POST", "promote"), ("POST", "rollback")}
        self.paused = False
        self.started: list[tuple[str, dict[str, Any], str]] = []
        self.asked: list[tuple[str, ...]] = []

    def is_authorized_dag(self, *, method: str, details: Any, user: Any, access_entity: Any = None) -> bool:
        return (method, details.id) in self.may

    def answer(self, *arguments: str) -> str:
        import json

        self.asked.append(arguments)
        if arguments[0] == "report":
            return "<html>the report <script>alert(1)</script></html>"
        if arguments[1:] and arguments[1] != "pydocs":
            raise CommandFailed("perennial page: no registered model", 2)
        return json.dumps(FACTS if arguments[1:] else {"models": []})


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    return Airflow()


@pytest.fixture
def client(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    from airflow.api_fastapi.core_api.security import get_user
    from perennial_pages import app as pages
    from perennial_pages.facts import facts
    from perennial_plugin import pages as mounted

    whole = FastAPI()

    @whole.get("/api/v2/dags/{dag}")
    def dag(dag: str) -> dict[str, Any]:
        return {"dag_id": dag, "is_paused": airflow.paused}

    @whole.post("/api/v2/dags/{dag}/dagRuns")
    async def start(dag: str, request: Request) -> dict[str, Any]:
        session = request.cookies.get("_token", "")
        if session != "ada's session":
            raise HTTPException(403, "Forbidden")
        airflow.started.append((dag, await request.json(), session))
        return {"dag_run_id": "manual__2026-03-05T10:00:00+00:00"}

    def user() -> Any:
        if airflow.user is None:
            raise HTTPException(401, "Not authenticated")
        return SimpleNamespace(get_id=lambda: airflow.user)

    whole.mount("/perennial", mounted)
    monkeypatch.setitem(pages.app.dependency_overrides, get_user, user)
    monkeypatch.setattr(pages, "get_auth_manager", lambda: airflow)
    monkeypatch.setattr(pages, "_secret", lambda: "secret")
    monkeypatch.setattr(facts, "ask", airflow.answer)
    facts.drop()
    with TestClient(whole, base_url="http://testserver", follow_redirects=False) as client:
        client.cookies.set("_token", "ada's session")
        yield client


def ticket(client: TestClient, action: str) -> str:
    page = client.get(PAGE).text
    form = page[page.index(f'action="{PAGE}/{action}"') :]
    assert action != "rollback" or all(f'name="{name}" value="{SHOWN[name]}"' in form for name in SHOWN)
    return form.split('name="ticket" value="')[1].split('"')[0]


def test_a_page_is_shown_under_a_strict_policy(client: TestClient) -> None:
    answer = client.get(PAGE)
    assert answer.status_code == 200
    assert "Gates over time" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_a_rollback_is_started_as_the_user(client: TestClient, airflow: Airflow) -> None:
    given = {"reason": "wrong dates", "ticket": ticket(client, "rollback")} | SHOWN
    headers = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    answer = client.post(f"{PAGE}/rollback", data=given, headers=headers)
    assert answer.status_code == 303
    assert airflow.started == [
        (
            "rollback",
            {"logical_date": None, "conf": {"model": "pydocs", "reason": "wrong dates"} | SHOWN},
            "ada's session",
        )
    ]
    after = client.get(answer.headers["location"])
    assert "/dags/rollback/runs/manual__2026-03-05T10%3A00%3A00%2B00%3A00" in after.text


def test_a_promotion_leads_to_the_approval(client: TestClient, airflow: Airflow) -> None:
    given = {"reason": "better", "version": "3", "ticket": ticket(client, "promote")}
    answer = client.post(f"{PAGE}/promote", data=given)
    assert airflow.started[0][1]["conf"] == {"model": "pydocs", "reason": "better", "version": "3"}
    assert "/tasks/approve/required_actions" in client.get(answer.headers["location"]).text


@pytest.mark.parametrize(
    ("change", "headers", "status"),
    [
        ({"ticket": ""}, {}, 403),
        ({"ticket": "1.0"}, {}, 403),
        ({"reason": " "}, {}, 400),
        ({"champion": ""}, {}, 400),
        ({"previous": "--help"}, {}, 400),
        ({}, {"Origin": "https://elsewhere.example"}, 403),
        ({}, {"Origin": "null"}, 403),
        ({}, {"Sec-Fetch-Site": "cross-site"}, 403),
        ({"reason": "x" * 30_000}, {}, 413),
    ],
)
def test_a_form_that_is_not_ours_starts_nothing(
    client: TestClient, airflow: Airflow, change: dict[str, str], headers: dict[str, str], status: int
) -> None:
    given = {"reason": "why", "ticket": ticket(client, "rollback")} | SHOWN | change
    answer = client.post(f"{PAGE}/rollback", data=given, headers=headers)
    assert answer.status_code == status
    assert airflow.started == []


def test_a_ticket_of_another_action_model_or_user_starts_nothing(
    client: TestClient, airflow: Airflow
) -> None:
    other = {"reason": "why", "ticket": ticket(client, "promote")}
    assert client.post(f"{PAGE}/rollback", data=other).status_code == 403
    own = {"reason": "why", "ticket": ticket(client, "rollback")}
    assert client.post("/perennial/models/other/rollback", data=own).status_code == 403
    airflow.user = "eve"
    assert client.post(f"{PAGE}/rollback", data=own).status_code == 403
    assert airflow.started == []


def test_airflow_has_the_last_word(client: TestClient, airflow: Airflow) -> None:
    given = {"reason": "why", "ticket": ticket(client, "rollback")} | SHOWN
    client.cookies.set("_token", "expired")
    answer = client.post(f"{PAGE}/rollback", data=given)
    assert answer.status_code == 403
    assert "Airflow did not start" in answer.text


def test_a_paused_dag_is_told_instead_of_waited_for(client: TestClient, airflow: Airflow) -> None:
    airflow.paused = True
    given = {"reason": "why", "ticket": ticket(client, "rollback")} | SHOWN
    answer = client.post(f"{PAGE}/rollback", data=given)
    assert answer.status_code == 409
    assert "unpause" in answer.text
    assert airflow.started == []


def test_forms_are_not_shown_to_who_may_not(client: TestClient, airflow: Airflow) -> None:
    airflow.may = {("GET", "promote")}
    assert "<form" not in client.get(PAGE).text
    airflow.may = set()
    assert client.get(PAGE).status_code == 403
    assert client.get("/perennial/").status_code == 403
    assert client.get("/perennial/runs/x/report").status_code == 403


def test_who_is_not_logged_in_is_sent_there_and_comes_back(client: TestClient, airflow: Airflow) -> None:
    airflow.user = None
    answer = client.get(PAGE)
    assert answer.status_code == 307
    assert answer.headers["location"] == f"/api/v2/auth/login?next={PAGE}"
    assert client.post(f"{PAGE}/rollback", data={}).status_code == 401


def test_a_report_runs_no_script(client: TestClient) -> None:
    answer = client.get("/perennial/runs/pydocs-run-2/report")
    assert "the report" in answer.text
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]


def test_an_unknown_model_is_not_found_and_an_option_is_no_model(
    client: TestClient, airflow: Airflow
) -> None:
    assert client.get("/perennial/models/nothing").status_code == 404
    before = len(airflow.asked)
    assert client.get("/perennial/models/--help").status_code == 404
    assert len(airflow.asked) == before


def test_loading_the_plugin_loads_no_web_server(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'dags/plugins'); import perennial_plugin; "
        "print([m for m in ('fastapi', 'torch', 'mlflow', 'perennial_pages') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
