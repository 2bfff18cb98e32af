"""The one way to MLflow: every call has retries, a time limit, and an error a person can act on."""

from __future__ import annotations

import functools
import os
import random
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.recipe.failures import ConfigInvalid, Infrastructure

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

LIMIT_SECONDS = 25.0
"""No attempt starts later than this after the first; with the timeouts below it ends within a minute."""

PAUSE_SECONDS = 0.5
"""The first pause between two attempts; each next one is twice as long, up to 8 s."""

HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
"""MLflow's defaults (7 retries, 120 s) would hide a dead server for minutes. Values already set win."""

RETRIED_CODES = frozenset(
    {
        "INTERNAL_ERROR",
        "TEMPORARILY_UNAVAILABLE",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
        "ABORTED",
        "RESOURCE_CONFLICT",
    }
)
ACCESS_CODES = frozenset(
    {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND"}
)
OVERTAKEN = ("IntegrityError", "UniqueViolation")
"""How MLflow tells that another writer set the same alias or tag first; asked again it succeeds."""

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


def tracking_uri() -> str:
    """Where MLflow is: MLFLOW_TRACKING_URI, or the laptop's database `<PERENNIAL_HOME>/mlflow.db`.

    Raises:
        ConfigInvalid: The URI is of a kind that holds no model registry.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home()}/mlflow.db"
    scheme = urllib.parse.urlparse(uri).scheme.split("+")[0]
    if scheme not in SCHEMES:
        raise ConfigInvalid(
            f"MLFLOW_TRACKING_URI is '{uri}', which has no model registry; use the address of an MLflow "
            f"server (http://host:port) or a database (sqlite:///abs/path/mlflow.db)"
        )
    return uri


def artifact_location() -> str | None:
    """Where a new experiment keeps its small files: decided by a server, beside the database without one."""
    uri = tracking_uri()
    if uri.startswith("http"):
        return None
    beside = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else _home()
    return (beside.absolute() / "mlartifacts").as_uri()


def call(what: str, act: Callable[[MlflowClient], T], uri: str | None = None) -> T:
    """Run `act` with the client, again and again while MLflow is away, at most for the time limit.

    Args:
        what: What is being done, for the error: "open the run".
        act: The work; it may run more than once, so it must find what an earlier attempt already did.
        uri: Where MLflow is; None for what the environment says.

    Raises:
        Infrastructure: MLflow could not be reached in time, or refused us.
        MlflowException: MLflow answered that the request itself is wrong; the caller knows what that means.
    """
    uri = uri or tracking_uri()
    transient = _transient()  # imports MLflow, which must not count as waiting
    start = time.monotonic()
    pause, attempts = PAUSE_SECONDS, 0
    while True:
        attempts += 1
        try:
            return act(_client(uri, os.getpid()))
        except transient as error:
            _raise_unless_transient(error, uri, what)
            cause = error
        elapsed = time.monotonic() - start
        if elapsed + pause > LIMIT_SECONDS:
            raise Infrastructure(
                f"MLflow at {uri}: could not {what} ({attempts} attempts in {elapsed:.0f} s): "
                f"{_first_line(cause)}. Finished results are kept in the store: bring the server back (does "
                f"MLFLOW_TRACKING_URI name it?) and retry"
            ) from cause
        time.sleep(pause * random.uniform(0.75, 1.25))
        pause = min(pause * 2, 8.0)


def code_of(error: Exception) -> str:
    """MLflow's name for an error, "" where it gave none."""
    return str(getattr(error, "error_code", ""))


def _raise_unless_transient(error: Exception, uri: str, what: str) -> None:
    code = code_of(error)
    if code in ACCESS_CODES:
        raise Infrastructure(
            f"MLflow at {uri}: may not {what}: {_first_line(error)}. Check the address, the credentials "
            f"(MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_TOKEN) and the server's MLFLOW_SERVER_ALLOWED_HOSTS"
        ) from error
    overtaken = any(sign in str(error) for sign in OVERTAKEN)
    if code and code not in RETRIED_CODES and not overtaken:
        raise error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:400]


def _home() -> Path:
    return Path(os.environ.get("PERENNIAL_HOME") or Path.cwd() / ".perennial").absolute()


@functools.cache
def _transient() -> tuple[type[Exception], ...]:
    """What a call may raise while MLflow is away: its own errors, HTTP errors (OSError), database errors."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    return (MlflowException, OSError, OperationalError)


@functools.cache
def _client(uri: str, pid: int) -> Any:
    """One client per address and process: its connections must not cross a fork."""
    for name, value in HTTP_SETTINGS.items():
        os.environ.setdefault(name, value)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)
