"""docker/compose.yaml, started with podman-compose from the images that were built here.

Docker starts a service when what it depends on is healthy, or has completed. podman 4.3 cannot wait for that,
and looks at a container's health only where systemd runs; so `up` creates everything with podman-compose,
starts each service when the conditions of its `depends_on` hold, and has podman run the health checks itself.

`python -m tests.containers.product RECIPE` runs a recipe of recipes/ to its promotion.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.local.airflow_api import AirflowApi
from tests.containers import stack, tools

COMPOSE = tools.ROOT / "docker" / "compose.yaml"
OVERRIDE = Path(__file__).with_name("compose.override.yaml")
PODMAN_COMPOSE = "1.6.0"
LABEL = "label=io.podman.compose.project=perennial"
READY_SECONDS = 300.0
Services = Mapping[str, Mapping[str, Any]]


def services() -> Services:
    """The services of the compose file."""
    found: Services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


def in_order(found: Services) -> list[str]:
    """The services, each after those that it depends on."""
    order: list[str] = []

    def place(name: str) -> None:
        for needed in found[name].get("depends_on", {}):
            place(needed)
        if name not in order:
            order.append(name)

    for name in found:
        place(name)
    return order


def goal(service: Mapping[str, Any]) -> str:
    """What a service is there for: to be healthy, or to complete."""
    return "service_healthy" if "healthcheck" in service else "service_completed_successfully"


@dataclass(frozen=True)
class Product:
    """The compose file's project.

    Attributes:
        folder: For the socket, the recipes and the programs around podman.
        env: The environment of podman-compose, which fills in the file's variables.
    """

    folder: Path
    env: Mapping[str, str]

    @property
    def airflow(self) -> str:
        """The published address of Airflow."""
        return f"http://127.0.0.1:{self.env['PERENNIAL_PORT_AIRFLOW']}"

    @property
    def mlflow(self) -> str:
        """The published address of MLflow."""
        return f"http://127.0.0.1:{self.env['PERENNIAL_PORT_MLFLOW']}"

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What podman-compose prints, called as the Makefile calls `compose`."""
        command = [*have_podman_compose(), "--podman-path", str(self.folder / "podman"), "--in-pod", "false"]
        command += ["--env-file", str(tools.ROOT / "docker" / "images.lock")]
        command += ["--file", str(COMPOSE), "--file", str(OVERRIDE), *arguments]
        done = subprocess.run(command, env=dict(self.env), capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert done.returncode == 0 or not check, f"podman-compose {' '.join(arguments)}\n{output[-5000:]}"
        return output

    def name(self, service: str) -> str:
        """The name of a service's container."""
        return f"perennial_{service}_1"

    def inspect(self, service: str) -> dict[str, Any]:
        """What podman says of a service's container."""
        found: dict[str, Any] = json.loads(tools.podman("inspect", self.name(service)))[0]
        return found

    def log(self, service: str) -> str:
        """What a service printed."""
        return tools.podman("logs", self.name(service))

    def run(self, service: str, *command: str, check: bool = True) -> str:
        """What a command prints that is run in a service's container."""
        wide = ("--env", "COLUMNS=160")  # of tables
        return tools.podman("exec", *wide, self.name(service), *command, check=check)

    def fulfilled(self, service: str, condition: str) -> bool:
        """Whether a condition of `depends_on` holds now.

        Raises:
            AssertionError: It cannot come to hold any more.
        """
        if condition == "service_healthy":
            return tools.does("healthcheck", "run", self.name(service))
        state = self.inspect(service)["State"]
        ended: bool = state["Status"] == "exited"
        assert not ended or state["ExitCode"] == 0, f"{service}: {self.log(service)[-3000:]}"
        return ended

    def wait(self, service: str, condition: str) -> None:
        """Wait until a condition holds."""
        until = time.monotonic() + READY_SECONDS
        while not self.fulfilled(service, condition):
            said = f"{service}: not {condition}, {self.inspect(service)['State']}"
            assert time.monotonic() < until, f"{said}\n{self.log(service)[-3000:]}"
            time.sleep(1.0)

    def up(self) -> None:
        """Create and start every service, and wait for each to be what it is there for."""
        found = services()
        self.compose("up", "--no-start", "--no-deps", "--no-build")
        for name in in_order(found):
            for needed, how in found[name].get("depends_on", {}).items():
                self.wait(needed, how["condition"])
            self.compose("start", name)
            print(f"{time.strftime('%H:%M:%S')} {name} started", flush=True)
        for name, service in found.items():
            self.wait(name, goal(service))
            print(f"{time.strftime('%H:%M:%S')} {name}: {goal(service)}", flush=True)

    def secret(self, volume: str, file: str) -> str:
        """A file of a volume, as the service `secrets` made it."""
        place = tools.podman("volume", "inspect", "--format", "{{.Mountpoint}}", f"perennial_{volume}")
        return (Path(place) / file).read_text(encoding="utf-8")

    def api(self) -> AirflowApi:
        """A session with Airflow."""
        return AirflowApi(self.airflow, "admin", self.password())

    def password(self) -> str:
        """Airflow's, as `make compose-up` prints it."""
        said: dict[str, str] = json.loads(self.run("api-server", "cat", "/run/secrets/login/passwords.json"))
        return said["admin"]


def have_podman_compose() -> list[str]:
    """podman-compose's command, in an environment of its own."""
    place = tools.HOME / f"podman-compose-{PODMAN_COMPOSE}"
    if not place.exists():
        new = place.with_suffix(".new")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(new)], check=True)
        install = [str(new / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, f"podman-compose=={PODMAN_COMPOSE}"], check=True)
        new.rename(place)
    return [str(place / "bin" / "python"), "-m", "podman_compose"]


@contextlib.contextmanager
def project(folder: Path, recipes: Path, images: Mapping[str, str]) -> Iterator[Product]:
    """The project, ready to be started, beside podman's service, which the scheduler asks for steps.

    Args:
        folder: For the socket and programs; every user may pass through it.
        recipes: The folder of recipes that become DAGs.
        images: References of the three images.
    """
    program = folder / "podman"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(tools.podman_command())} "$@"\n')
    program.chmod(0o755)
    with tools.service(folder) as socket:
        env = {
            **{key: value for key, value in tools.environment().items() if not key.startswith("PERENNIAL_")},
            **{f"PERENNIAL_IMAGE_{name.upper()}": reference for name, reference in images.items()},
            "IMAGE_POSTGRES": tools.have_stand_in("postgres"),
            "IMAGE_S3": tools.have_stand_in("s3"),
            "PERENNIAL_CONTAINER_GPUS": "0",
            "PERENNIAL_PORT_AIRFLOW": str(stack.free_port()),
            "PERENNIAL_PORT_MLFLOW": str(stack.free_port()),
            "PERENNIAL_SOCKET": socket.removeprefix("unix://"),
            "PERENNIAL_SOCKET_GROUP": "0",
            "PERENNIAL_TEST_RECIPES": str(recipes),
        }
        product = Product(folder, env)
        remove(product)  # what a run that was killed left
        try:
            yield product
        finally:
            remove(product)


def remove(product: Product) -> None:
    """Remove containers, networks and volumes."""
    steps = tools.podman("ps", "--all", "--quiet", "--filter", "label=perennial.step").split()
    if steps:
        tools.podman("rm", "--force", "--time", "5", *steps, check=False)
    product.compose("down", "--timeout", "5", "--volumes", check=False)
    tools.podman("volume", "rm", "--force", "perennial-scratch", check=False)


@contextlib.contextmanager
def watched_steps() -> Iterator[dict[str, dict[str, Any]]]:
    """Step -> what podman said of its container while it ran; filled while the block runs."""
    seen: dict[str, dict[str, Any]] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(2.0):
            for each in tools.podman("ps", "--quiet", "--filter", "label=perennial.step").split():
                said = tools.podman("inspect", each, check=False)
                if said.startswith("[\n"):  # else it has just gone
                    found = json.loads(said)[0]
                    seen[found["Config"]["Labels"]["perennial.step"]] = found

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield seen
    finally:
        done.set()
        watching.join()


def main(recipe: str) -> None:
    """Run a recipe of recipes/ to its promotion."""
    images = {name: tools.have_image(name) for name in tools.IMAGES}
    folder = Path(tempfile.mkdtemp(prefix="perennial-product-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        with project(folder, tools.ROOT / "recipes", images) as product:
            product.up()
            _, states = stack.run_recipe(product.api(), recipe)
            print(json.dumps(states))
            print(product.run("scheduler", "perennial", "registry", recipe))
            print(product.compose("down"))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1])
