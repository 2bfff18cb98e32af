"""A PostgreSQL of the tests' own, for as long as they need it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

START_SECONDS = 180.0


def programs() -> Path:
    """The folder of PostgreSQL's programs, or a skip that says how to get them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip(
            "PostgreSQL is missing, so promotions were not raced and killed on it; get it with "
            "`apt-get install postgresql`"
        )
    return found[-1].parent


@contextlib.contextmanager
def postgres(*databases: str) -> Iterator[str]:
    """Start a server with empty databases; the first one's URI. Whoever is on this machine may connect."""
    bin_folder = programs()
    folder = Path(
        tempfile.mkdtemp(prefix="perennial-postgres-")
    )  # the user `postgres` may not enter pytest's
    folder.chmod(0o755)
    data, log = folder / "data", folder / "log"
    data.mkdir()
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if user:
        os.chown(data, pwd.getpwnam(user).pw_uid, -1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    env = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    initdb = ["initdb", "--pgdata", str(data), "--username", "postgres", "--auth", "trust", "--no-sync"]
    command = ["postgres", "-D", str(data), "-p", str(port), "-k", str(data), "-c", "fsync=off"]
    try:
        subprocess.run(initdb, check=True, user=user, env=env, stdout=subprocess.DEVNULL, cwd="/")
        with log.open("wb") as output:
            running = subprocess.Popen(command, user=user, env=env, stdout=output, stderr=output, cwd="/")
        try:
            for name in databases:
                _create(name, env | {"PGHOST": str(data), "PGPORT": str(port)}, running, log)
            yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/{databases[0]}"
        finally:
            running.terminate()
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create(database: str, env: dict[str, str], running: subprocess.Popen[bytes], log: Path) -> None:
    """Create the database as soon as the server answers."""
    until = time.monotonic() + START_SECONDS
    create = ["psql", "--username", "postgres", "--command", f"create database {database}"]
    while subprocess.run(create, env=env, capture_output=True).returncode != 0:
        if running.poll() is not None or time.monotonic() > until:
            pytest.fail(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)
