"""MLflow as k8s/mlflow deploys it: the same scripts, environment and secrets, against a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.unit.k8s.rendered import K8S, ROOT, named
from tests.unit.k8s.test_mlflow import environment, server

pytestmark = pytest.mark.slow

INTERNAL = "mlflow.perennial.svc.cluster.local:5000"
EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"


@dataclass(frozen=True)
class Deployment:
    """The running server and what its pods have.

    Attributes:
        uri: The server's.
        env: The environment of its container, with paths of this machine.
        logins: Account -> password.
        secrets: The folder that stands for /etc/perennial.
        pid: The server's process.
        postgres: PostgreSQL's port.
    """

    uri: str
    env: dict[str, str]
    logins: dict[str, str]
    secrets: Path
    pid: int
    postgres: int

    def get(self, path: str, account: str | None = None, host: str = INTERNAL) -> int:
        """The status of a request."""
        login = (account, self.logins[account]) if account else None
        return requests.get(self.uri + path, auth=login, headers={"Host": host}, timeout=30).status_code


def programs() -> Path:
    """PostgreSQL's, or a skip."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip(
            "PostgreSQL is missing, so MLflow's scripts were not run against it; get it with "
            "`apt-get install postgresql`"
        )
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip(
            "flask-wtf is missing, so MLflow's authentication was not run; get it with "
            "`pip install 'mlflow[auth]'`"
        )
    return found[-1].parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 180
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.3)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


def secrets_of_dev() -> dict[str, dict[str, str]]:
    """The secrets of `perennial`, as make_secrets.py makes them."""
    script = K8S / "overlays" / "dev" / "make_secrets.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)["items"]
    return {
        each["metadata"]["name"]: each["stringData"]
        for each in made
        if each["metadata"]["namespace"] == "perennial"
    }


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that the user `postgres` may enter; pytest's own may not."""
    made = Path(tempfile.mkdtemp(prefix="perennial-mlflow-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def database(folder: Path) -> Iterator[tuple[int, dict[str, dict[str, str]]]]:
    """PostgreSQL with the databases of init-databases.sh; its port, and the secrets."""
    bin_folder, secrets, port = programs(), secrets_of_dev(), free_port()
    data, log = folder / "data", folder / "postgres.log"
    data.mkdir()
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if user:
        os.chown(data, pwd.getpwnam(user).pw_uid, -1)
    env = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    initdb = ["initdb", "--pgdata", str(data), "--username", "postgres"]
    initdb += ["--auth-local", "trust", "--auth-host", "scram-sha-256"]
    subprocess.run(initdb, check=True, user=user, env=env, stdout=subprocess.DEVNULL, cwd="/")
    command = ["postgres", "-D", str(data), "-p", str(port), "-k", str(data), "-c", "fsync=off"]
    with log.open("wb") as output:
        running = subprocess.Popen(command, user=user, env=env, stdout=output, stderr=output, cwd="/")
    local = env | {"PGHOST": str(data), "PGPORT": str(port)}
    ready = ["psql", "--username", "postgres", "--command", "select 1"]
    try:
        wait(lambda: subprocess.run(ready, env=local, capture_output=True).returncode == 0, running, log)
        passwords = folder / "postgres-secrets"
        write(passwords, secrets["postgres"])
        script = ["sh", str(K8S / "overlays" / "dev" / "init-databases.sh")]
        subprocess.run(script, env=local | {"POSTGRES_SECRETS": str(passwords)}, check=True)
        yield port, secrets
    finally:
        stop(running)


def write(place: Path, files: dict[str, str]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def env(folder: Path, database: tuple[int, dict[str, dict[str, str]]]) -> dict[str, str]:
    """What the server's container has, and the upgrade's; only paths and addresses are this machine's."""
    port, secrets = database
    place = folder / "secrets"
    service = secrets["mlflow-database"]["pg_service.conf"]
    service = service.replace("host=postgres.perennial.svc.cluster.local", "host=127.0.0.1")
    write(place / "database", {"pg_service.conf": service.replace("port=5432", f"port={port}")})
    write(place / "server", secrets["mlflow-server"])
    write(place / "admin", secrets["mlflow-admin"])
    write(place / "client", secrets["perennial-mlflow"])
    write(place / "reader", secrets["perennial-mlflow-reader"])
    write(folder / "home" / ".mlflow", secrets["perennial-mlflow"])
    told = {
        name: value.replace("/etc/perennial/mlflow", str(ROOT / "mlflow")).replace(
            "/etc/perennial", str(place)
        )
        for name, value in environment(server("dev")).items()
    }
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        **told,
        "HOME": str(folder / "home"),
        "PERENNIAL_SERVER_SECRETS": str(place / "server"),
        "MLFLOW_ADMIN_PASSWORD_FILE": str(place / "admin" / "password"),
        "MLFLOW_CLIENT_CREDENTIALS": str(place / "client" / "credentials"),
        "MLFLOW_READER_CREDENTIALS": str(place / "reader" / "credentials"),
        "MLFLOW_ARTIFACTS_DESTINATION": (folder / "artifacts").as_uri(),
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_WORKERS": "1",
    }


def run(script: str, env: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """A script of mlflow/, by the interpreter that its manifest names."""
    by = "python" if script.endswith(".py") else "sh"
    command = [by, str(ROOT / "mlflow" / script)]
    return subprocess.run(command, env=env | more, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def upgraded(env: dict[str, str]) -> str:
    """What the upgrade job printed, after the init container was seen to wait for it."""
    before = run("wait_for_schema.py", env, SCHEMA_WAIT_SECONDS="0")
    assert before.returncode == 1
    assert "the database's schema is None" in before.stdout
    done = run("upgrade.sh", env)
    assert done.returncode == 0, done.stderr[-2000:]
    after = run("wait_for_schema.py", env, SCHEMA_WAIT_SECONDS="0")
    assert after.returncode == 0, after.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployment(
    folder: Path, env: dict[str, str], upgraded: str, database: tuple[int, dict[str, dict[str, str]]]
) -> Iterator[Deployment]:
    """The server, as its container's command starts it."""
    port, log = free_port(), folder / "mlflow.log"
    uri = f"http://localhost:{port}"
    # localhost:5000 is on the list, for port-forward; this machine's port is another one.
    hosts = f"{env['MLFLOW_SERVER_ALLOWED_HOSTS']},localhost:{port}"
    with log.open("wb") as output:
        running = subprocess.Popen(
            ["sh", str(ROOT / "mlflow" / "serve.sh")],
            env=env | {"MLFLOW_PORT": str(port), "MLFLOW_SERVER_ALLOWED_HOSTS": hosts},
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    try:
        wait(lambda: answers(uri), running, log)
        logins = {"admin": database[1]["mlflow-admin"]["password"]}
        for name, place in (("perennial", "client"), ("perennial-reader", "reader")):
            text = (folder / "secrets" / place / "credentials").read_text()
            logins[name] = text.rpartition(" = ")[2].strip()
        yield Deployment(uri, env, logins, folder / "secrets", running.pid, database[0])
    finally:
        stop(running)


def answers(uri: str) -> bool:
    try:
        return requests.get(f"{uri}/health", timeout=5).ok
    except requests.RequestException:
        return False


def test_the_upgrade_makes_the_accounts(upgraded: str) -> None:
    made = [f"account {name}: made" for name in ("admin", "perennial", "perennial-reader")]
    assert upgraded.splitlines()[-3:] == made


def test_a_password_is_asked_for(deployment: Deployment) -> None:
    assert deployment.get(EXPERIMENT) == 401
    assert deployment.get(EXPERIMENT, "admin") == 200
    assert deployment.get(EXPERIMENT, "perennial") == 200
    wrong = requests.get(
        deployment.uri + EXPERIMENT, auth=("admin", "wrong"), headers={"Host": INTERNAL}, timeout=30
    )
    assert wrong.status_code == 401


def test_the_pods_account_is_no_administrator(deployment: Deployment) -> None:
    made = requests.post(
        deployment.uri + "/api/2.0/mlflow/users/create",
        json={"username": "friend", "password": "a long password"},
        auth=("perennial", deployment.logins["perennial"]),
        headers={"Host": INTERNAL},
        timeout=30,
    )
    assert made.status_code == 403


def test_p12_the_clients_hosts_are_let_in_and_others_are_not(deployment: Deployment) -> None:
    """P12: the very header that a pod of a step sends."""
    settings = named("dev", "ConfigMap")["perennial-settings"]["data"]
    assert settings["MLFLOW_TRACKING_URI"] == f"http://{INTERNAL}"
    for host in (INTERNAL, "mlflow:5000", "mlflow"):
        assert deployment.get(EXPERIMENT, "perennial", host) == 200, host
    for host in ("evil.example.org", "10.1.2.3:5000"):
        assert deployment.get(EXPERIMENT, "perennial", host) == 403, host


def test_the_probes_need_neither_name_nor_password(deployment: Deployment) -> None:
    path = server("dev")["readinessProbe"]["httpGet"]["path"]
    assert deployment.get(path, host="10.1.2.3:5000") == 200


def test_the_servers_process_holds_no_password_of_the_database(deployment: Deployment) -> None:
    service = (deployment.secrets / "database" / "pg_service.conf").read_text()
    password = next(line for line in service.splitlines() if line.startswith("password=")).split("=", 1)[1]
    for file in ("cmdline", "environ"):
        assert password.encode() not in Path(f"/proc/{deployment.pid}/{file}").read_bytes()


@pytest.mark.parametrize(
    ("name", "may"), [("mlflow", True), ("mlflow_auth", True), ("airflow", False), ("postgres", True)]
)
def test_each_role_reaches_its_own_databases_only(deployment: Deployment, name: str, may: bool) -> None:
    """`postgres` is everyone's and empty."""
    service = (deployment.secrets / "database" / "pg_service.conf").read_text()
    password = next(line for line in service.splitlines() if line.startswith("password=")).split("=", 1)[1]
    command = ["psql", "--no-password", f"postgresql://mlflow@127.0.0.1:{deployment.postgres}/{name}"]
    env = {"PATH": f"{programs()}:{deployment.env['PATH']}", "PGPASSWORD": password}
    done = subprocess.run([*command, "-c", "select 1"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is may
    assert may or "permission denied" in done.stderr


SCRIPT = """
import mlflow
mlflow.set_experiment("deployed")
with mlflow.start_run() as run:
    mlflow.log_text("small", "note.txt")
client = mlflow.MlflowClient()
client.create_registered_model("deployed")
source = "s3://perennial/store/artefacts/abc/files"
client.create_model_version("deployed", source=source, run_id=run.info.run_id)
client.set_registered_model_alias("deployed", "champion", "1")
print(run.info.run_id)
"""


READ = """
import mlflow
print(mlflow.get_experiment_by_name("deployed").name)
print(mlflow.MlflowClient().get_model_version_by_alias("deployed", "champion").version)
"""


def client(deployment: Deployment, code: str, **login: str) -> subprocess.CompletedProcess[str]:
    """Code of a client that finds its account in ~/.mlflow/credentials, as a pod does, or in `login`."""
    kept = {key: value for key, value in deployment.env.items() if key in ("PATH", "HOME", "PYTHONPATH")}
    env = kept | {"MLFLOW_TRACKING_URI": deployment.uri} | login
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_the_pods_account_writes_and_a_reader_does_not(deployment: Deployment) -> None:
    """And what was deleted is gone after the collection: rows and files."""
    wrote = client(deployment, SCRIPT)
    assert wrote.returncode == 0, wrote.stderr[-2000:]
    run_id = wrote.stdout.split()[-1]

    made = requests.post(
        deployment.uri + "/api/2.0/mlflow/users/create",
        json={"username": "reader", "password": "a long password"},
        auth=("admin", deployment.logins["admin"]),
        headers={"Host": INTERNAL},
        timeout=30,
    )
    assert made.status_code == 200, made.text
    for name, password in (
        ("reader", "a long password"),
        ("perennial-reader", deployment.logins["perennial-reader"]),  # Airflow's web server
    ):
        reader = {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}
        read = client(deployment, READ, **reader)
        assert read.stdout.split() == ["deployed", "1"], read.stderr[-500:]
        moved = client(
            deployment,
            "import mlflow; mlflow.MlflowClient().set_registered_model_alias('deployed', 'champion', '1')",
            **reader,
        )
        assert moved.returncode != 0
        assert "Permission denied" in moved.stderr

    artifacts = Path(deployment.env["MLFLOW_ARTIFACTS_DESTINATION"].removeprefix("file://"))
    assert list(artifacts.rglob("note.txt"))
    delete = client(deployment, f"import mlflow; mlflow.delete_run('{run_id}')")
    assert delete.returncode == 0, delete.stderr[-500:]
    kept = run("gc.sh", deployment.env, MLFLOW_TRACKING_URI=deployment.uri, GC_OLDER_THAN="30d")
    assert kept.returncode == 0, kept.stderr[-2000:]
    assert list(artifacts.rglob("note.txt")), "deleted today: it stays for a month"
    gone = run("gc.sh", deployment.env, MLFLOW_TRACKING_URI=deployment.uri, GC_OLDER_THAN="0s")
    assert gone.returncode == 0, gone.stderr[-2000:]
    assert not list(artifacts.rglob("note.txt")), gone.stdout + gone.stderr
    lost = client(deployment, f"import mlflow; mlflow.get_run('{run_id}')")
    assert lost.returncode != 0


def test_a_changed_password_is_taken_over_by_the_upgrade(deployment: Deployment) -> None:
    again = run("upgrade.sh", deployment.env)
    right = [f"account {name}: as it should be" for name in ("admin", "perennial", "perennial-reader")]
    assert again.stdout.splitlines()[-3:] == right
    (deployment.secrets / "admin" / "password").write_text("another long password\n")
    changed = run("upgrade.sh", deployment.env)
    assert "account admin: password changed" in changed.stdout
    told = requests.get(
        deployment.uri + EXPERIMENT,
        auth=("admin", "another long password"),
        headers={"Host": INTERNAL},
        timeout=30,
    )
    assert told.status_code == 200


def test_a_server_without_the_schema_says_what_to_do(env: dict[str, str]) -> None:
    """A database that is not there at all: the pod waits, and its last words name the job."""
    lost = run(
        "wait_for_schema.py",
        env,
        SCHEMA_WAIT_SECONDS="0",
        MLFLOW_BACKEND_STORE_URI="postgresql+psycopg2://nobody@127.0.0.1:1/none",
    )
    assert lost.returncode == 1
    assert "no answer from the database" in lost.stdout
    assert "mlflow-upgrade" in lost.stderr
