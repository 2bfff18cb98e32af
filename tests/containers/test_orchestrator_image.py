"""The orchestrator's image, built here: Airflow, MLflow's server, and nothing that computes."""

from __future__ import annotations

import json
import time

import pytest

from tests.containers import tools

WRITABLE = ("--tmpfs", "/scratch:rw,mode=1777", "--tmpfs", "/logs:rw,mode=1777")

WHAT_IS_IN_IT = """
import importlib.util, os
import airflow, mlflow
import tasks.cli, tasks.runner.planner, tasks.runner.release, tasks.tracking.registry, tasks.release.promote
heavy = ("torch", "transformers", "deepspeed", "great_expectations", "peft", "tokenizers")
print(airflow.__version__, mlflow.__version__, [name for name in heavy if importlib.util.find_spec(name)])
print(os.getuid(), os.getgid())
for place in ("/", "/opt/venv", "/opt/perennial/dags", "/home/perennial"):
    try:
        open(os.path.join(place, "x"), "w").close()
        print(place, "written")
    except OSError as error:
        print(place, error.strerror)
print(open("/proc/self/status").read().partition("CapEff:")[2].split()[0])
"""

PARSE = """
import json, sys
sys.path.insert(0, "/opt/perennial/dags")  # as Airflow's processes do
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("/opt/perennial/dags")
print(json.dumps({
    "errors": bag.import_errors,
    "dags": sorted(bag.dags),
    "heavy": [name for name in ("torch", "transformers", "mlflow", "pandas") if name in sys.modules],
}))
"""


def inside(image: str, *command: str, env: dict[str, str] | None = None) -> str:
    given = [part for key, value in (env or {}).items() for part in ("--env", f"{key}={value}")]
    return tools.podman(
        *("run", "--rm", "--network", "none", *tools.RESTRICTED, *WRITABLE, *given, image),
        *command,
    )


def test_it_has_airflow_mlflow_and_the_light_half_and_no_rights(orchestrator_image: str) -> None:
    told = inside(orchestrator_image, "python", "-c", WHAT_IS_IN_IT).splitlines()
    pins = dict(
        line.split("==")
        for line in (tools.ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith(("apache-airflow==", "mlflow=="))
    )
    assert told[-7] == f"{pins['apache-airflow']} {pins['mlflow']} []"
    assert told[-6] == "10001 10001"
    assert [line.partition(" ")[2] for line in told[-5:-1]] == ["Read-only file system"] * 4
    assert int(told[-1], 16) == 0


def test_it_migrates_a_database_and_makes_the_pool(orchestrator_image: str) -> None:
    told = inside(
        orchestrator_image,
        *("sh", "-ec"),
        "airflow db migrate && airflow db check-migrations && "
        "airflow pools set gpu 1 'Steps on GPUs' --include-deferred && airflow pools list --output json",
    )
    pools = json.loads(told.splitlines()[-1])
    assert {pool["pool"] for pool in pools} == {"default_pool", "gpu"}


@pytest.mark.parametrize("runtime", ["container", "kubernetes"])
def test_its_dags_are_those_of_its_recipes_and_import_nothing_heavy(
    orchestrator_image: str, runtime: str
) -> None:
    env = {
        "PERENNIAL_RUNTIME": runtime,
        "PERENNIAL_STORE": "s3://perennial/store",
        "PERENNIAL_IMAGE_CPU": "localhost/cpu",
        "PERENNIAL_IMAGE_TRAINER": "localhost/trainer",
    }
    told = json.loads(inside(orchestrator_image, "python", "-c", PARSE, env=env).splitlines()[-1])
    recipes = {f"train__{path.stem}" for path in (tools.ROOT / "recipes").glob("*.yaml")}
    corpora = {f"watch__{path.stem}" for path in (tools.ROOT / "recipes" / "corpora").glob("*.yaml")}
    others = {"compare", "evaluate", "promote", "retention", "rollback", "watchdog"}
    assert told["errors"] == {}
    assert set(told["dags"]) == recipes | corpora | others
    assert told["heavy"] == []


def test_mlflows_server_has_the_options_that_the_services_use(orchestrator_image: str) -> None:
    told = inside(orchestrator_image, "mlflow", "server", "--help")
    for option in ("--app-name", "--backend-store-uri", "--artifacts-destination", "--workers"):
        assert option in told


def test_sigterm_ends_a_server_at_once(orchestrator_image: str) -> None:
    """Its workers must be gone with it: process 1 ignores a signal that it has no handler for."""
    name, health = "perennial-test-mlflow", tools.ROOT / "docker" / "health.py"
    tools.podman(
        *("run", "--detach", "--replace", "--name", name, "--network", "none", *tools.RESTRICTED, *WRITABLE),
        *("--volume", f"{health}:/health.py:ro", "--env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"),
        *(orchestrator_image, "mlflow", "server", "--port", "5000", "--workers", "2"),
        *("--backend-store-uri", "sqlite:////scratch/mlflow.db", "--artifacts-destination", "/scratch/files"),
    )
    try:
        until = time.monotonic() + 120
        while not tools.does("exec", name, "python", "/health.py", "http://127.0.0.1:5000/health"):
            assert time.monotonic() < until, tools.podman("logs", name)
            time.sleep(1)
        began = time.monotonic()
        tools.podman("stop", "--time", "60", name)
        assert time.monotonic() - began < 30
        assert json.loads(tools.podman("inspect", name))[0]["State"]["ExitCode"] in (0, 143)
    finally:
        tools.podman("rm", "--force", "--time", "0", name)
