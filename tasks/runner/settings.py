"""Where things are: three environment variables, each with a default for a laptop."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The places a process works with.

    Attributes:
        home: Local state (`PERENNIAL_HOME`, default `.perennial` in the working directory).
        store: URI of the artefact store (`PERENNIAL_STORE`, default `file://<home>/store`).
        tracking: URI of MLflow (`MLFLOW_TRACKING_URI`, default `sqlite:///<home>/mlflow.db`).
    """

    home: Path
    store: str
    tracking: str


def settings() -> Settings:
    """Read the settings from the environment."""
    home = Path(os.environ.get("PERENNIAL_HOME") or Path.cwd() / ".perennial").absolute()
    return Settings(
        home=home,
        store=os.environ.get("PERENNIAL_STORE") or f"file://{home}/store",
        tracking=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home}/mlflow.db",
    )
