"""The cpu image, built here from Debian's packages, runs a step of the demo and gives a process's digests."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.containers import stack, tools

RECIPE = tools.ROOT / "recipes" / "pydocs.yaml"
NETWORK, SUBNET = "perennial-test-one", "10.89.78.0/24"
SCRATCH = "perennial-test-one-scratch"


def inside(image: str, *command: str) -> str:
    arguments = ("run", "--rm", "--network", "none", *tools.RESTRICTED, "--entrypoint", command[0], image)
    return tools.podman(*arguments, *command[1:])


def test_it_runs_as_a_user_without_rights_on_a_root_that_is_read_only(cpu_image: str) -> None:
    code = """
import os
print(os.getuid(), os.getgid())
for place in ("/", "/opt/venv", "/home/perennial", "/scratch", "/tmp"):
    try:
        open(os.path.join(place, "x"), "w").close()
        print(place, "written")
    except OSError as error:
        print(place, error.strerror)
print(open("/proc/self/status").read().partition("CapEff:")[2].split()[0])
"""
    told = inside(cpu_image, "python", "-c", code).splitlines()
    assert told[0] == "10001 10001"
    assert [line.partition(" ")[2] for line in told[1:5]] == ["Read-only file system"] * 4
    assert told[5] == "/tmp written"
    assert int(told[6], 16) == 0


def test_sigterm_ends_it_at_once(cpu_image: str) -> None:
    """Process 1 ignores a signal that it has no handler for, so without tini this would wait for SIGKILL."""
    name = "perennial-test-signal"
    tools.podman(
        *("run", "--detach", "--replace", "--name", name, "--network", "none", *tools.RESTRICTED),
        *("--entrypoint", "/usr/bin/tini", cpu_image, "--", "python", "-c", "import time; time.sleep(300)"),
    )
    time.sleep(2)
    began = time.monotonic()
    tools.podman("stop", "--time", "60", name)
    assert time.monotonic() - began < 30
    assert json.loads(tools.podman("inspect", name))[0]["State"]["ExitCode"] == 143
    tools.podman("rm", "--force", name)


@dataclass
class Services:
    """A store on an S3 server and MLflow, on a network without a way out."""

    env: dict[str, str]
    secrets: Path

    def step(self, image: str, plan: str, name: str) -> str:
        """Run a step in a container, as a person would."""
        passed = (
            "PERENNIAL_STORE",
            "MLFLOW_TRACKING_URI",
            "AWS_ENDPOINT_URL",
            "AWS_REGION",
            "OMP_NUM_THREADS",
        )
        env = [part for key in passed for part in ("--env", f"{key}={self.env[key]}")]
        env += ["--env", "AWS_SHARED_CREDENTIALS_FILE=/run/secrets/perennial/aws-credentials"]
        return tools.podman(
            *("run", "--rm", "--network", NETWORK, *tools.RESTRICTED, *env),
            *("--volume", f"{SCRATCH}:/scratch", "--volume", f"{self.secrets}:/run/secrets/perennial:ro"),
            *(image, "step", "--plan", plan, "--step", name),
        )


@pytest.fixture(scope="module")
def services(folder: Path, cpu_image: str) -> Iterator[Services]:
    place = folder / "one"
    secrets = place / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "aws-credentials").write_text(stack.KEYS)
    stack.make_key(place)  # for the worker, never for a step
    tools.podman("volume", "rm", "--force", SCRATCH, check=False)
    with tools.network(NETWORK, SUBNET) as here:
        tools.podman(
            *("run", "--detach", "--replace", "--name", "perennial-test-one", "--network", NETWORK),
            *(*tools.RESTRICTED, "--entrypoint", "sleep", cpu_image, "86400"),
        )
        s3, mlflow = f"http://{here}:{stack.free_port()}", f"http://{here}:{stack.free_port()}"
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PERENNIAL_", "AWS_"))},
            "AWS_ENDPOINT_URL": s3,
            "AWS_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": str(secrets / "aws-credentials"),
            "MLFLOW_TRACKING_URI": mlflow,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "NO_PROXY": "*",
            "OMP_NUM_THREADS": "1",
            "PERENNIAL_HOME": str(place / "home"),
            "PERENNIAL_SIGNING_KEY": str(place / "signing.pem"),
            "PERENNIAL_STORE": "s3://perennial/store",
            "PERENNIAL_TRUSTED_KEYS": str(place / "trusted.pem"),
        }
        moto = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
        moto += ["--host", here, "--port", s3.rpartition(":")[2]]
        server = [sys.executable, "-m", "mlflow", "server", "--host", here, "--workers", "1"]
        server += ["--port", mlflow.rpartition(":")[2], "--allowed-hosts", mlflow.removeprefix("http://")]
        server += [
            "--backend-store-uri",
            f"sqlite:///{place}/mlflow.db",
            "--artifacts-destination",
            str(place),
        ]
        with (
            stack.process(moto, env, place / "s3.log", stack.answers(f"{s3}/moto-api/")),
            stack.process(server, env, place / "mlflow.log", stack.answers(f"{mlflow}/health")),
        ):
            session = boto3.Session("perennial", stack.PASSWORD, region_name="us-east-1")
            session.client("s3", endpoint_url=s3).create_bucket(Bucket="perennial")
            yield Services(env, secrets)
        tools.podman("rm", "--force", "--time", "0", "perennial-test-one")


def outputs(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output)["outputs"]
    return {name: each["digest"] for name, each in found.items()}


def test_a_step_of_the_demo_gives_the_digests_of_a_process(
    cpu_image: str, services: Services, folder: Path
) -> None:
    freeze = [sys.executable, "-m", "tasks.cli", "plan", str(RECIPE), "--freeze", "--run", "one"]
    tools.run(freeze, services.env)
    said = services.step(cpu_image, "s3://perennial/store/runs/one/plan.json", "checked")
    assert "checked: runs" in said
    os.environ.update({key: value for key, value in services.env.items() if key.startswith("AWS_")})
    session = boto3.Session("perennial", stack.PASSWORD, region_name="us-east-1")
    client = session.client("s3", endpoint_url=services.env["AWS_ENDPOINT_URL"])
    body = client.get_object(Bucket="perennial", Key="store/runs/one/steps/checked.json")["Body"].read()

    local = services.env | {
        "PERENNIAL_HOME": str(folder / "local"),
        "PERENNIAL_STORE": f"file://{folder}/local/store",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/local/mlflow.db",
    }
    tools.run(freeze, local)
    plan = f"file://{folder}/local/store/runs/one/plan.json"
    tools.run([sys.executable, "-m", "tasks.cli", "step", "--plan", plan, "--step", "checked"], local)
    record = (folder / "local" / "store" / "runs" / "one" / "steps" / "checked.json").read_text()
    assert outputs(body.decode()) == outputs(record)
    assert json.loads(body)["fingerprint"] == json.loads(record)["fingerprint"]
    print(json.dumps(outputs(record), indent=1))


def test_there_is_no_way_out_of_its_network(cpu_image: str, services: Services) -> None:
    code = """
import socket, sys
for address in (("192.0.2.1", 80), ("1.1.1.1", 53)):
    try:
        socket.create_connection(address, timeout=5)
        print("connected")
    except OSError as error:
        print(error.strerror)
store = sys.argv[1].removeprefix("http://").split(":")
socket.create_connection((store[0], int(store[1])), timeout=5)
print("store reached")
"""
    told = tools.podman(
        *("run", "--rm", "--network", NETWORK, *tools.RESTRICTED, "--entrypoint", "python", cpu_image),
        *("-c", code, services.env["AWS_ENDPOINT_URL"]),
    )
    assert told.splitlines() == ["Network is unreachable", "Network is unreachable", "store reached"]
