"""The web application: who may see and do what, and which run of Airflow does it.

Nothing is decided here. A promotion or a rollback asked for on a page starts Airflow's DAG of that name
through Airflow's own REST API, with the user's own session: Airflow checks the permission and writes its
audit log, and the command makes its checks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import parse_qs, quote, urlsplit

import httpx
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.configuration import conf
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from runtimes.failures import CommandFailed

from perennial_pages import render, tickets
from perennial_pages.facts import facts
from tasks.recipe.failures import Failure

PREFIX = "/perennial"
ACTIONS = ("promote", "rollback")
MOST_BYTES = 20_000
"""Of a form that is sent."""

app = FastAPI(title="Perennial", docs_url=None, redoc_url=None, openapi_url=None)
User = Annotated[BaseUser, Depends(get_user)]
logger = logging.getLogger(__name__)


@app.get("/")
def models(user: User) -> Response:
    """The list of models."""
    _require_reader(user)
    return _html(render.list_page(facts.json("page"), _base()))


@app.get("/models/{model}")
def model(model: str, user: User, dag: str = "", run: str = "") -> Response:
    """The page of a model; `dag` and `run` name what was just started."""
    _require_reader(user)
    _check_name(model)
    found = facts.json("page", model)
    shown = render.started(_airflow(), dag, run) if dag in ACTIONS and run else ""
    allowed = {
        action: tickets.issue(_secret(), str(user.get_id()), f"{action} {model}")
        for action in ACTIONS
        if _may_start(user, action)
    }
    return _html(render.model_page(found, _base(), _airflow(), tickets=allowed, said=shown))


@app.get("/runs/{run}/report")
def report(run: str, user: User) -> Response:
    """The report of a run, as the release left it in the store."""
    _require_reader(user)
    _check_name(run)
    return _html(facts.get("report", run), render.REPORT_POLICY)


@app.post("/models/{model}/{action}")
async def act(model: str, action: str, request: Request, user: User) -> Response:
    """Start the DAG that promotes or rolls back, in the user's name."""
    _check_name(model)
    if action not in ACTIONS:
        raise HTTPException(404, "there is no such action")
    _require_own_page(request)
    given = await _form(request)
    if not tickets.good(_secret(), str(user.get_id()), f"{action} {model}", given.get("ticket", "")):
        raise HTTPException(403, "the form is too old, or was not this page's: open the page again")
    reason = given.get("reason", "").strip()
    if not reason:
        raise HTTPException(400, "a decision needs a reason")
    values = {"model": model, "reason": reason}
    if action == "promote":
        values["version"] = given.get("version", "")
    else:  # what the page showed: a second click, or an old page, must not bring the bad version in again
        values |= {name: given.get(name, "") for name in ("champion", "previous")}
        if not all(values[name].isdecimal() for name in ("champion", "previous")):
            raise HTTPException(400, "the form does not say which versions it showed: open the page again")
    run = await _start(request, action, values)
    facts.drop()
    place = f"{_base()}/models/{quote(model)}?dag={action}&run={quote(run, safe='')}"
    return RedirectResponse(place, 303)


@app.exception_handler(HTTPException)
def refused(request: Request, error: HTTPException) -> Response:
    """A refusal as a page; who is not logged in is sent to where one logs in."""
    if error.status_code == 401 and request.method == "GET":
        path = str(request.scope["path"])
        for prefix in (str(request.scope.get("root_path", "")), PREFIX):
            path = path.removeprefix(prefix)
        place = quote(f"{_base()}{path}")
        return RedirectResponse(f"{_airflow()}/api/v2/auth/login?next={place}", 307)
    return _html(render.said_page("Refused", str(error.detail), _base()), status=error.status_code)


@app.exception_handler(CommandFailed)
def failed(_: Request, error: CommandFailed) -> Response:
    """A command that failed, in its own words."""
    logger.warning("%s", error)
    status = 404 if error.failure is Failure.CONFIG_INVALID else 502
    return _html(render.said_page("Not available", str(error), _base()), status=status)


async def _start(request: Request, dag: str, values: Mapping[str, str]) -> str:
    """Start a run of a DAG as the user, and give its id."""
    headers = {name: request.headers[name] for name in ("authorization", "host") if name in request.headers}
    session = request.cookies.get(COOKIE_NAME_JWT_TOKEN)
    cookies = {COOKIE_NAME_JWT_TOKEN: session} if session else {}
    airflow = httpx.ASGITransport(app=request.scope["perennial.airflow"], root_path=_airflow())
    async with httpx.AsyncClient(
        transport=airflow, base_url=str(request.base_url), headers=headers, cookies=cookies, trust_env=False
    ) as client:
        known = await client.get(f"/api/v2/dags/{dag}")
        if known.status_code == 200 and known.json().get("is_paused"):
            raise HTTPException(409, f"the DAG '{dag}' is paused, so nothing would happen: unpause it first")
        body = {"logical_date": None, "conf": dict(values)}
        answer = await client.post(f"/api/v2/dags/{dag}/dagRuns", json=body)
    if answer.status_code != 200:
        raise HTTPException(answer.status_code, f"Airflow did not start '{dag}': {answer.text[:500]}")
    return str(answer.json()["dag_run_id"])


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that was sent."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise HTTPException(413, "the form is too large")
    fields = parse_qs(data.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}


def _require_own_page(request: Request) -> None:
    """Refuse a form that another site sent, as far as the browser says so."""
    origin = request.headers.get("origin")
    own = {request.headers.get("host"), urlsplit(conf.get("api", "base_url", fallback="") or "").netloc}
    foreign = origin is not None and urlsplit(origin).netloc not in own - {"", None}
    if foreign or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "this form was sent by another site")


def _require_reader(user: BaseUser) -> None:
    """Who may see the DAG `promote` may see the models."""
    if not get_auth_manager().is_authorized_dag(method="GET", details=DagDetails(id="promote"), user=user):
        raise HTTPException(403, "you may not see the DAG 'promote', and so not its models")


def _may_start(user: BaseUser, dag: str) -> bool:
    """Whether a form is worth showing; Airflow's API decides when it is sent."""
    return get_auth_manager().is_authorized_dag(
        method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=dag), user=user
    )


def _check_name(name: str) -> None:
    """Refuse what would be an option of the command instead of a name."""
    if name.startswith("-") or "/" in name:
        raise HTTPException(404, "there is no such thing")


def _html(text: str, policy: str = render.POLICY, status: int = 200) -> HTMLResponse:
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(text, status, headers)


def _secret() -> str:
    return str(conf.get("api", "secret_key"))


def _airflow() -> str:
    """Path of Airflow, "" at the root."""
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")


def _base() -> str:
    return f"{_airflow()}{PREFIX}"
