"""Where the laptop's services keep their state, which ports they take, and the environment they run in.

All of it lies under PERENNIAL_HOME (default `.perennial`): `airflow/`, `mlflow.db`, `mlartifacts/`, `store/`,
`logs/`, `run/` (who runs), `secrets.json` (made once, readable by its owner only). Airflow and MLflow each
keep a SQLite file there, unless PERENNIAL_AIRFLOW_DATABASE or PERENNIAL_MLFLOW_DATABASE names a database.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import socket
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tasks.runner.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
"""The repository: dags/ and recipes/ are here."""

HOST = "127.0.0.1"
"""The servers are for this machine alone."""

AIRFLOW_PORT = 8080
MLFLOW_PORT = 5000
USER = "admin"

AIRFLOW_DATABASE = "PERENNIAL_AIRFLOW_DATABASE"
MLFLOW_DATABASE = "PERENNIAL_MLFLOW_DATABASE"
"""Name a database in the place of the SQLite files, such as `postgresql+psycopg2://USER:PASSWORD@HOST/airflow`.
Airflow's own variable does not count: it may name an Airflow that is not ours, which `up` would migrate."""


@dataclass(frozen=True)
class Places:
    """The addresses and folders of one set of local services.

    Attributes:
        home: PERENNIAL_HOME.
        store: URI of the store the steps use.
        airflow_port: Of the web server, which also serves the API.
        mlflow_port: Of the tracking server.
        health_port: Of the scheduler's health check.
    """

    home: Path
    store: str
    airflow_port: int
    mlflow_port: int
    health_port: int

    @property
    def airflow(self) -> str:
        """Address of Airflow."""
        return f"http://{HOST}:{self.airflow_port}"

    @property
    def mlflow(self) -> str:
        """Address of MLflow."""
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def airflow_home(self) -> Path:
        """AIRFLOW_HOME."""
        return self.home / "airflow"

    @property
    def airflow_database(self) -> str:
        """URI of Airflow's database."""
        return os.environ.get(AIRFLOW_DATABASE) or f"sqlite:///{self.airflow_home}/airflow.db"

    @property
    def mlflow_database(self) -> str:
        """URI of MLflow's database."""
        return os.environ.get(MLFLOW_DATABASE) or f"sqlite:///{self.home}/mlflow.db"

    @property
    def logs(self) -> Path:
        """The services' own logs, one file each."""
        return self.home / "logs"


def choose(
    settings: Settings, held: ExitStack, *, airflow_port: int = AIRFLOW_PORT, mlflow_port: int = MLFLOW_PORT
) -> Places:
    """Places for services that are about to start: the wanted ports where they are free, others where not.

    Args:
        settings: Where the local state and the store are.
        held: Until it closes, nobody else who starts services on this machine is given the same ports: a
            server listens only seconds after it was told where.
        airflow_port: The wanted port of Airflow's web server.
        mlflow_port: The wanted port of MLflow.
    """
    return Places(
        home=settings.home,
        store=settings.store,
        airflow_port=_free_port(airflow_port, held),
        mlflow_port=_free_port(mlflow_port, held),
        health_port=_free_port(0, held),
    )


def login(place: Path) -> tuple[str, str]:
    """User and password of Airflow's web page."""
    passwords = json.loads((place / "airflow" / "passwords.json").read_text(encoding="utf-8"))
    return USER, passwords[USER]


def environment(places: Places) -> dict[str, str]:
    """The environment of every service and, through Airflow, of every step."""
    kept = secret_values(places.home)
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR") or str(places.home / "cache" / "torch_extensions")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    airflow = {
        "CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "CORE__PLUGINS_FOLDER": str(ROOT / "dags" / "plugins"),
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__FERNET_KEY": kept["fernet_key"],
        "CORE__LOAD_EXAMPLES": "False",
        # Two steps at once at most: each is a training process with threads of its own.
        "CORE__PARALLELISM": "2",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": os.environ.get("PERENNIAL_USERS", f"{USER}:admin"),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(places.airflow_home / "passwords.json"),
        "CORE__EXECUTION_API_SERVER_URL": f"{places.airflow}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": places.airflow_database,
        "LOGGING__BASE_LOG_FOLDER": str(places.airflow_home / "logs"),
        "API__HOST": HOST,
        "API__PORT": str(places.airflow_port),
        "API__BASE_URL": places.airflow,
        "API__WORKERS": "1",
        "API__SECRET_KEY": kept["api_secret_key"],
        "API__INSTANCE_NAME": "Perennial",
        "API_AUTH__JWT_SECRET": kept["jwt_secret"],
        # One person watches one run: look often, a few milliseconds each, instead of every few seconds.
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
        "SCHEDULER__ENABLE_HEALTH_CHECK": "True",
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": HOST,
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(places.health_port),
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "30",
    }
    # A database's address has its password: the steps, which get this environment, need neither.
    inherited = {
        name: value for name, value in os.environ.items() if name not in (AIRFLOW_DATABASE, MLFLOW_DATABASE)
    }
    return {
        **inherited,
        **{f"AIRFLOW__{name}": value for name, value in airflow.items()},
        "AIRFLOW_HOME": str(places.airflow_home),
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its job runner (for judging traces) costs five more processes and half of the time to start.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": places.mlflow,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        # A laptop's checkpoint takes a second, and `make down` should leave nothing behind for long.
        "PERENNIAL_GRACE_SECONDS": os.environ.get("PERENNIAL_GRACE_SECONDS", "30"),
        "PERENNIAL_HOME": str(places.home),
        "PERENNIAL_STORE": places.store,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TORCH_EXTENSIONS_DIR": extensions,
    }


def secret_values(place: Path) -> dict[str, str]:
    """The services' secrets, made at the first call and the same ever after."""
    path = place / "secrets.json"
    if path.exists():
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found
    place.mkdir(parents=True, exist_ok=True)
    made = {
        "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "api_secret_key": secrets.token_urlsafe(32),
        "jwt_secret": secrets.token_urlsafe(48),
        "password": secrets.token_urlsafe(12),
    }
    write_private(path, json.dumps(made))
    (place / "airflow").mkdir(exist_ok=True)
    write_private(place / "airflow" / "passwords.json", json.dumps({USER: made["password"]}))
    return made


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, from the first byte on."""
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)


def _free_port(wanted: int, held: ExitStack) -> int:
    """`wanted` where nobody listens on it or is about to, else one the system gives."""
    for port in (wanted, *[0] * 20):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            chosen = int(probe.getsockname()[1])
            if _reserve(chosen, held):
                return chosen
    raise OSError(f"no free port on {HOST}")


def _reserve(port: int, held: ExitStack) -> bool:
    """Keep a port from others who start services as this user; False where one of them has it."""
    folder = Path(tempfile.gettempdir()) / f"perennial-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = (folder / str(port)).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return False
    held.enter_context(lock)
    return True
