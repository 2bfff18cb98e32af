"""docker/compose.yaml, really started: every service healthy, its doors shut, a recipe promoted through it.

The images are those that are built here; PostgreSQL and the S3 server are stand-ins (stand_ins/), since no
registry is reachable. PERENNIAL_TEST_COMPOSE_RECIPE=pydocs takes the demo's recipe instead of the smallest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tasks.local.airflow_api import AirflowApi
from tasks.recipe.failures import PerennialError
from tests.containers import product as product_of
from tests.containers import stack, tools
from tests.containers.product import Product

RECIPE = os.environ.get("PERENNIAL_TEST_COMPOSE_RECIPE", "tiny")
SERVICES = product_of.services()
RUNNING = sorted(name for name, service in SERVICES.items() if "healthcheck" in service)
NETWORKS = {"steps": "perennial-steps", "platform": "perennial_platform", "front": "perennial_front"}

REACH = """
import json, socket, sys
told = {}
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        told[address] = "reached"
    except OSError as error:
        told[address] = error.strerror
print(json.dumps(told))
"""
NO_WAY, NO_NAME = "Network is unreachable", "Name or service not known"
OUTSIDE = ("192.0.2.1:80", "1.1.1.1:53")


@pytest.fixture(scope="module")
def product(folder: Path, orchestrator_image: str, cpu_image: str, trainer_image: str) -> Iterator[Product]:
    """The whole of it, started."""
    place = folder / "product"
    recipes = place / "recipes"
    recipes.mkdir(parents=True)
    if RECIPE == "tiny":
        stack.write_tiny(recipes)
    else:
        shutil.copy(tools.ROOT / "recipes" / f"{RECIPE}.yaml", recipes)
    images = {"orchestrator": orchestrator_image, "cpu": cpu_image, "trainer": trainer_image}
    with product_of.project(place, recipes, images) as found:
        found.up()
        yield found


def test_every_service_is_healthy_or_has_completed(product: Product) -> None:
    for name, service in SERVICES.items():
        assert product.fulfilled(name, product_of.goal(service)), name
    states = {name: product.inspect(name)["State"]["Status"] for name in SERVICES}
    assert sorted(name for name, state in states.items() if state == "running") == RUNNING
    assert {product.inspect(name)["RestartCount"] for name in RUNNING} == {0}


def test_a_health_check_can_fail(product: Product) -> None:
    """So that "healthy" above says something: the same check of a part that there is not."""
    told = product.run(
        *("dag-processor", "python", "/run/perennial/health.py"),
        *("http://api-server:8080/api/v2/monitor/health", "nobody"),
        check=False,
    )
    assert "KeyError" in told


def test_airflow_lets_in_who_has_the_password_and_nobody_else(product: Product) -> None:
    dags = f"{product.airflow}/api/v2/dags"
    assert requests.get(dags, timeout=30).status_code == 401
    with pytest.raises(PerennialError, match="401"):
        AirflowApi(product.airflow, "admin", "wrong")
    assert product.api().import_errors() == []


def test_mlflow_lets_in_who_has_the_password_and_answers_to_its_names_only(product: Product) -> None:
    search = f"{product.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    credentials = product.secret("airflow-secrets", "mlflow/credentials")
    read = re.search(r"username = (\S+)\nmlflow_tracking_password = (\S+)", credentials)
    assert read
    account = (read[1], read[2])
    assert requests.get(search, timeout=30).status_code == 401
    assert requests.get(search, auth=(read[1], "wrong"), timeout=30).status_code == 401
    assert requests.get(search, auth=account, timeout=30).status_code == 200
    other = requests.get(search, auth=account, headers={"Host": "mlflow.example.com"}, timeout=30)
    assert other.status_code == 403


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_a_root_that_is_read_only_and_the_user_of_the_file(product: Product, name: str) -> None:
    service, said = SERVICES[name], product.inspect(name)
    assert said["HostConfig"]["ReadonlyRootfs"] is True
    assert said["Config"]["User"] == service["user"]
    assert "no-new-privileges" in str(said["HostConfig"]["SecurityOpt"])
    assert len(said["EffectiveCaps"] or []) == len(service.get("cap_add", []))
    assert said["HostConfig"]["Privileged"] is False


@pytest.mark.parametrize("name", RUNNING)
def test_from_inside_a_service_is_a_user_without_rights(product: Product, name: str) -> None:
    text = product.run(name, "cat", "/proc/1/status")
    status = dict(line.split(":", 1) for line in text.splitlines())
    assert status["Uid"].split() == [SERVICES[name]["user"].split(":")[0]] * 4
    assert {int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert "Read-only file system" in product.run(name, "touch", "/x", "/usr/x", check=False)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_on_the_networks_of_the_file_and_no_other(product: Product, name: str) -> None:
    there = set(product.inspect(name)["NetworkSettings"].get("Networks", {}))
    assert there - {"none"} == {NETWORKS[each] for each in SERVICES[name].get("networks", [])}


def address(product: Product, service: str, network: str) -> str:
    found: str = product.inspect(service)["NetworkSettings"]["Networks"][NETWORKS[network]]["IPAddress"]
    return found


def test_a_step_reaches_the_store_and_mlflow_and_nothing_else(product: Product, cpu_image: str) -> None:
    there = ["s3:7070", "mlflow:5000"]
    names = ["postgres:5432", "api-server:8080", "scheduler:8974"]
    numbers = [f"{address(product, 'postgres', 'platform')}:5432", *OUTSIDE]
    numbers.append(f"{address(product, 'api-server', 'front')}:8080")
    said = tools.podman(
        *("run", "--rm", "--network", NETWORKS["steps"], *tools.RESTRICTED, "--entrypoint", "python"),
        *(cpu_image, "-c", REACH, *there, *names, *numbers),
    )
    told = json.loads(said.splitlines()[-1])
    print(json.dumps(told, indent=1))
    assert {told[each] for each in there} == {"reached"}
    assert {told[each] for each in names} == {NO_NAME}
    assert {told[each] for each in numbers} == {NO_WAY}


def test_only_what_is_published_has_a_way_out(product: Product) -> None:
    """The way out of the published services is looked for, not gone: nothing outside answers here."""
    routes = {name: product.run(name, "cat", "/proc/net/route").splitlines()[1:] for name in RUNNING}
    targets = {name: {line.split()[1] for line in lines} for name, lines in routes.items()}
    having = {name for name in RUNNING if "00000000" in targets[name]}
    assert having == {name for name in RUNNING if "front" in SERVICES[name]["networks"]}
    told = json.loads(product.run("scheduler", "python", "-c", REACH, "postgres:5432", *OUTSIDE))
    assert told == {"postgres:5432": "reached", **dict.fromkeys(OUTSIDE, NO_WAY)}


def test_the_recipe_is_promoted_and_its_steps_are_containers(
    product: Product, cpu_image: str, trainer_image: str
) -> None:
    with product_of.watched_steps() as seen:
        _, states = stack.run_recipe(product.api(), RECIPE)
    assert set(states.values()) == {"success"}, states
    assert set(seen) == set(states) - {"plan", "register", "approve", "promote"}
    for name, step in seen.items():
        assert step["ImageName"] in (cpu_image, trainer_image), name
        assert set(step["NetworkSettings"]["Networks"]) == {NETWORKS["steps"]}, name
        assert step["Config"]["User"] == "10001:10001", name
        assert step["HostConfig"]["ReadonlyRootfs"] is True, name
        assert not step["EffectiveCaps"], name
        mounts = {each["Destination"]: (each.get("Name"), each["RW"]) for each in step["Mounts"]}
        assert mounts["/run/secrets/perennial"] == ("perennial-step-secrets", False), name
        assert mounts["/scratch"] == ("perennial-scratch", True), name
        assert "docker.sock" not in str(mounts), name
    told = json.dumps(seen)
    assert [name for name, value in secrets(product).items() if value in told] == []
    assert re.search(r"\b1 .*1\.0\.0.*champion", product.run("scheduler", "perennial", "registry", RECIPE))
    assert "the gates passed" in product.run("scheduler", "perennial", "history", RECIPE)


def secrets(product: Product) -> dict[str, str]:
    """Every secret of the volumes by its file."""
    keys = ("postgres", "airflow", "mlflow")
    found = {f"postgres/{name}": product.secret("postgres-secrets", name) for name in keys}
    for name in ("api-secret-key", "jwt-secret", "fernet-key"):
        found[name] = product.secret("airflow-secrets", name)
    for name in ("flask-secret-key", "admin-password"):
        found[name] = product.secret("mlflow-secrets", name)
    for name in ("aws-credentials", "mlflow/credentials"):  # those of the steps
        found[name] = product.secret("airflow-secrets", name).split(" = ")[-1].strip()
    found["login"] = json.loads(product.secret("airflow-login", "passwords.json"))["admin"]
    found["signing"] = product.secret("signing-key", "signing.pem").splitlines()[1]
    return found


def test_no_secret_is_in_what_podman_says_of_a_service_or_in_its_log(product: Product) -> None:
    kept = secrets(product)
    assert len(kept) == 12, sorted(kept)
    assert min(len(value) for value in kept.values()) > 30
    for name in SERVICES:
        told = json.dumps(product.inspect(name)) + product.log(name)
        assert [secret for secret, value in kept.items() if value in told] == [], name


def test_down_leaves_nothing_but_the_volumes(product: Product) -> None:
    product.compose("down")
    assert tools.podman("ps", "--all", "--quiet", "--filter", product_of.LABEL) == ""
    assert tools.podman("ps", "--quiet", "--filter", "label=perennial.step") == ""
    networks = set(tools.podman("network", "ls", "--format", "{{.Name}}").splitlines())
    assert not networks & set(NETWORKS.values())
    volumes = set(tools.podman("volume", "ls", "--format", "{{.Name}}").splitlines())
    assert {"perennial_postgres-data", "perennial_s3-data", "perennial_airflow-secrets"} <= volumes
