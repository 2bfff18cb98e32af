"""The services of docker/compose.yaml as processes of this machine: PostgreSQL for Airflow and MLflow, an S3
server, MLflow's server, Airflow's; the steps are containers.

`python -m tests.containers.stack RECIPE` runs a recipe through them to its promotion, and prints the digests.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import requests
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks.artefacts import Store, open_store
from tasks.local.airflow_api import AirflowApi
from tasks.recipe.run_names import run_name
from tests.containers import tools

ROOT = tools.ROOT
STEPS_NETWORK = "perennial-test-steps"
SUBNET = "10.89.77.0/24"
PASSWORD = "only-for-this-test"
KEYS = "[default]\naws_access_key_id = perennial\naws_secret_access_key = only-for-this-test\n"
READY_SECONDS = 300.0
ENDED = ("success", "failed")


@dataclass(frozen=True)
class Stack:
    """The running services.

    Attributes:
        folder: Their state and logs.
        env: The environment of Airflow and of `perennial`.
        airflow: Address of Airflow.
    """

    folder: Path
    env: dict[str, str]
    airflow: str

    @property
    def store(self) -> Store:
        """The store on the S3 server."""
        os.environ.update({key: value for key, value in self.env.items() if key.startswith("AWS_")})
        return open_store(self.env["PERENNIAL_STORE"])

    def api(self) -> AirflowApi:
        """A session with Airflow."""
        return AirflowApi(self.airflow, "admin", PASSWORD)

    def perennial(self, *arguments: str) -> str:
        """What a `perennial` command prints."""
        return tools.run([sys.executable, "-m", "tasks.cli", *arguments], self.env)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_bin() -> Path | None:
    """The folder of PostgreSQL's programs, where it is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextlib.contextmanager
def process(
    command: Sequence[str], env: dict[str, str], log: Path, ready: Callable[[], bool], user: str | None = None
) -> Iterator[None]:
    """A process that is waited for until it answers, and is stopped at the end."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=output, user=user, start_new_session=True
        )
        try:
            until = time.monotonic() + READY_SECONDS
            while not ready():
                assert running.poll() is None, f"{command[0]} ended:\n{log.read_text()[-3000:]}"
                assert time.monotonic() < until, f"{command[0]} is not ready:\n{log.read_text()[-3000:]}"
                time.sleep(0.3)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, 15)
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, 9)
                running.wait()


def answers(
    url: str, wanted: Callable[[requests.Response], bool] = lambda reply: reply.ok
) -> Callable[[], bool]:
    """Whether an address answers as wanted, to be asked again and again."""

    def ask() -> bool:
        try:
            return wanted(requests.get(url, timeout=10))
        except (requests.RequestException, ValueError, KeyError):
            return False

    return ask


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[int]:
    """PostgreSQL with the databases `airflow` and `mlflow`; its port."""
    programs, data, port = postgres_bin(), folder / "postgres", free_port()
    assert programs is not None
    user = "postgres"
    data.mkdir()
    os.chown(data, pwd.getpwnam(user).pw_uid, -1)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    initdb = [str(programs / "initdb"), "--pgdata", str(data), "--auth", "trust", "--username", "postgres"]
    subprocess.run(initdb, check=True, user=user, env=env, stdout=subprocess.DEVNULL, cwd="/")
    server = [
        str(programs / "postgres"),
        "-D",
        str(data),
        "-p",
        str(port),
        "-k",
        str(data),
        "-c",
        "fsync=off",
    ]
    psql = [str(programs / "psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-c"]

    def ready() -> bool:
        return subprocess.run([*psql, "select 1"], capture_output=True, check=False).returncode == 0

    with process(server, env, folder / "postgres.log", ready, user=user):
        for name in ("airflow", "mlflow"):
            subprocess.run([*psql, f"create database {name}"], check=True, stdout=subprocess.DEVNULL)
        yield port


@contextlib.contextmanager
def running(folder: Path, recipes: Path, images: dict[str, str]) -> Iterator[Stack]:
    """All of it.

    Args:
        folder: For state and logs; a parent of it must be open to the user `postgres`.
        recipes: The folder of recipes that become DAGs.
        images: `cpu` and `trainer`: references.
    """
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "aws-credentials").write_text(KEYS)  # readable by the containers' user
    make_key(folder)
    (folder / "passwords.json").write_text(json.dumps({"admin": PASSWORD}))
    mlflow_port, s3_port, airflow_port, health_port = (free_port() for _ in range(4))
    with contextlib.ExitStack() as stack:
        database = f"postgresql+psycopg2://postgres@127.0.0.1:{stack.enter_context(postgres(folder))}"
        here = stack.enter_context(tools.network(STEPS_NETWORK, SUBNET))
        have_bridge(images["cpu"])
        s3, mlflow = f"http://{here}:{s3_port}", f"http://{here}:{mlflow_port}"
        airflow = f"http://127.0.0.1:{airflow_port}"
        settings = {
            "CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__PARALLELISM": "2",
            "CORE__EXECUTION_API_SERVER_URL": f"{airflow}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
            "DATABASE__SQL_ALCHEMY_CONN": f"{database}/airflow",
            "LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
            "API__HOST": "127.0.0.1",
            "API__PORT": str(airflow_port),
            "API__BASE_URL": airflow,
            "API__WORKERS": "1",
            "API__SECRET_KEY": PASSWORD,
            "API_AUTH__JWT_SECRET": PASSWORD * 4,
            "SCHEDULER__ENABLE_HEALTH_CHECK": "True",
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(health_port),
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PERENNIAL_", "AWS_"))}
        env = {
            **kept,
            **{f"AIRFLOW__{key}": value for key, value in settings.items()},
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AWS_ENDPOINT_URL": s3,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": str(secrets / "aws-credentials"),
            "DOCKER_HOST": stack.enter_context(tools.service(folder)),
            "MLFLOW_S3_ENDPOINT_URL": s3,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": mlflow,
            "NO_PROXY": "*",
            "OMP_NUM_THREADS": "1",
            "PERENNIAL_CONTAINER_NETWORK": STEPS_NETWORK,
            "PERENNIAL_CONTAINER_PASS": "OMP_NUM_THREADS",
            "PERENNIAL_CONTAINER_SCRATCH": "perennial-test-scratch",
            "PERENNIAL_CONTAINER_SECRETS": str(secrets),
            "PERENNIAL_CONTAINER_MEMORY": "4g",
            "PERENNIAL_CONTAINER_CPUS": "2",
            "PERENNIAL_HOME": str(folder / "home"),
            "PERENNIAL_IMAGE_CPU": images["cpu"],
            "PERENNIAL_IMAGE_TRAINER": images["trainer"],
            "PERENNIAL_RECIPES": str(recipes),
            "PERENNIAL_RUNTIME": "container",
            "PERENNIAL_SIGNING_KEY": str(folder / "signing.pem"),
            "PERENNIAL_STORE": "s3://perennial/store",
            "PERENNIAL_TRUSTED_KEYS": str(folder / "trusted.pem"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        moto = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
        moto += ["--host", here, "--port", str(s3_port)]
        stack.enter_context(process(moto, env, folder / "s3.log", answers(f"{s3}/moto-api/")))
        client = boto3.Session("perennial", PASSWORD, region_name="us-east-1").client("s3", endpoint_url=s3)
        client.create_bucket(Bucket="perennial")
        server = [sys.executable, "-m", "mlflow", "server", "--host", here, "--port", str(mlflow_port)]
        server += ["--workers", "1", "--allowed-hosts", f"{here}:{mlflow_port}"]
        server += ["--backend-store-uri", f"{database}/mlflow"]
        server += ["--artifacts-destination", "s3://perennial/mlflow"]
        stack.enter_context(process(server, env, folder / "mlflow.log", answers(f"{mlflow}/health")))
        tools.run([sys.executable, "-m", "airflow", "db", "migrate"], env)
        processes = {
            "api-server": (["api-server"], answers(f"{airflow}/api/v2/version")),
            "scheduler": (
                ["scheduler", "--skip-serve-logs"],
                answers(f"http://127.0.0.1:{health_port}/health"),
            ),
            "dag-processor": (
                ["dag-processor"],
                answers(
                    f"{airflow}/api/v2/monitor/health",
                    lambda reply: reply.json()["dag_processor"]["status"] == "healthy",
                ),
            ),
        }
        for name, (command, ready) in processes.items():
            command = [sys.executable, "-m", "airflow", *command]
            stack.enter_context(process(command, env, folder / f"{name}.log", ready))
        found = Stack(folder, env, airflow)
        found.api().make_pool("gpu", 1, "Steps on GPUs")
        yield found


def make_key(folder: Path) -> None:
    """The key that signs releases, signing.pem, and the list of those that are trusted, trusted.pem."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / "signing.pem", folder / "trusted.pem"
    private.touch(0o600)
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )


def have_bridge(image: str) -> None:
    """Wait for nothing: a network has its address on this machine once a container has been in it."""
    tools.podman(
        *("run", "--detach", "--name", "perennial-test-bridge", "--replace", "--network", STEPS_NETWORK),
        *tools.RESTRICTED,
        *("--entrypoint", "sleep", image, "86400"),
    )


def write_tiny(recipes: Path) -> Path:
    """The smallest recipe, into a folder, with a smoke test: its three tasks are containers and no steps."""
    text = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text(encoding="utf-8")
    smoke = 'release:\n  smoke: {prompt: "What is a list?", tokens: 4, chat: true}\n'
    place = recipes / "tiny.yaml"
    place.write_text(text.replace("release:\n", smoke), encoding="utf-8")
    return place


def run_recipe(api: AirflowApi, recipe: str) -> tuple[str, dict[str, str]]:
    """Trigger the DAG of a recipe, approve it as a person would, and wait for its end.

    Args:
        api: A session with Airflow.
        recipe: The recipe's name.

    Returns:
        The run's name in the store, and the state of every task.
    """
    dag = f"train__{recipe}"
    until = time.monotonic() + READY_SECONDS
    while api.dag(dag) is None:
        assert time.monotonic() < until, api.import_errors()
        time.sleep(0.5)
    api.set_paused(dag, False)
    run = api.trigger(dag, {"reason": "through containers"})
    shown: dict[str, str] = {}
    while True:
        states = {name: str(task["state"]) for name, task in api.tasks(dag, run).items()}
        for name, state in states.items():
            if shown.get(name) != state and state in ("running", "success", "failed", "up_for_retry"):
                print(f"{time.strftime('%H:%M:%S')} {name}: {state}", flush=True)
        shown = states
        if api.run(dag, run)["state"] in ENDED:
            return run_name(recipe, run), states
        if (
            states.get("approve") == "awaiting_input"
            and not api.question(dag, run, "approve")["response_received"]
        ):
            time.sleep(15.0)  # the scheduler must have seen the asking process end, on a busy machine too
            api.answer(dag, run, "approve", "Approve", {"reason": "the gates passed"})
        time.sleep(1.0)


def digests(store: Store, run: str, steps: Sequence[str]) -> dict[str, dict[str, str]]:
    """Step -> output -> digest of a run."""
    found: dict[str, Any] = {name: json.loads(store.read(f"runs/{run}/steps/{name}.json")) for name in steps}
    return {
        name: {key: output["digest"] for key, output in record["outputs"].items()}
        for name, record in found.items()
    }


def main(recipe: str) -> None:
    """Run a recipe of recipes/ to its promotion."""
    images = {name: tools.have_image(name) for name in ("cpu", "trainer")}
    folder = Path(tempfile.mkdtemp(prefix="perennial-stack-", dir="/var/tmp"))
    folder.chmod(0o755)
    with running(folder, ROOT / "recipes", images) as stack:
        began = time.monotonic()
        run, states = run_recipe(stack.api(), recipe)
        print(f"{time.monotonic() - began:.0f} s; {json.dumps(states)}")
        steps = [name for name in states if stack.store.stat(f"runs/{run}/steps/{name}.json")]
        for name, outputs in digests(stack.store, run, steps).items():
            print(name, *(f"{key}={digest}" for key, digest in outputs.items()))
        print(stack.perennial("registry", recipe))


if __name__ == "__main__":
    main(sys.argv[1])
