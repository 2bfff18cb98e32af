"""Where a person finds what a run left behind: the run and the version in MLflow."""

from __future__ import annotations

import os

from tasks.release.register import ReleaseRecord
from tasks.runner.settings import Settings
from tasks.tracking import registry
from tasks.tracking.server import call


def mlflow_links(settings: Settings, record: ReleaseRecord) -> dict[str, str]:
    """Name -> address of MLflow's pages about a release; {} where MLflow is a database without pages.

    `PERENNIAL_MLFLOW_URL` is the address that people use, where it is not the one that machines use.
    """
    address = (os.environ.get("PERENNIAL_MLFLOW_URL") or settings.tracking).rstrip("/")
    if not address.startswith("http") or record.version is None:
        return {}
    links = {"the version in MLflow": f"{address}/#/models/{record.model}/versions/{record.version}"}
    found = registry.find_version(record.model, record.version, settings.tracking)
    if found is not None and found.run_id:
        run = call(
            f"find run {found.run_id}",
            lambda client: client.get_run(found.run_id).info.experiment_id,
            settings.tracking,
        )
        links["the run in MLflow"] = f"{address}/#/experiments/{run}/runs/{found.run_id}"
    return links


def as_markdown(links: dict[str, str]) -> str:
    """The links as one line, "" where there are none."""
    return " · ".join(f"[{name}]({address})" for name, address in links.items())
