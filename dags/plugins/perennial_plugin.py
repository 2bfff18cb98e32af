"""Airflow's plugin: the pages about models, under `Browse > Models` and `<Airflow>/perennial/`.

`[core] plugins_folder` (AIRFLOW__CORE__PLUGINS_FOLDER) has to name this folder. Every process of Airflow
loads it, so it imports nothing: the pages are built at the first request, in the web server alone.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

PREFIX = "/perennial"
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """The web application (ASGI), told which Airflow it is mounted in."""
    folder = str(Path(__file__).resolve().parents[1])
    if (
        folder not in sys.path
    ):  # the DAGs' helpers know how to call `perennial`; Airflow adds it for DAGs alone
        sys.path.append(folder)
    from perennial_pages.app import app

    await app({**scope, "perennial.airflow": scope["app"]}, receive, send)


APPS: list[Any] = [{"app": pages, "url_prefix": PREFIX, "name": "Perennial"}]
VIEWS: list[Any] = [
    {
        "name": "Models",
        "href": f"{urlparse(conf.get('api', 'base_url', fallback='') or '').path.rstrip('/')}{PREFIX}/",
        "destination": "nav",
        "category": "browse",
        "url_route": "models",
    }
]


class PerennialPlugin(AirflowPlugin):
    """Adds the pages and their entry in Airflow's menu."""

    name = "perennial"
    fastapi_apps = APPS
    external_views = VIEWS
