"""The main job on real text with a tiny model: what runs again and why, lineage, S3, damage, MLflow away.

The first run's processes and those of all that is compared with it have different seeds of Python's hashes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from tasks.recipe.failures import Failure
from tests import warm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "recipes" / "tiny.yaml"
STEPS = [
    *("checked", "blank", "general_shards", "shards", "base", "adapted"),
    *("tuned", "opinions", "aligned", "merged", "report"),
]


class Home:
    """One PERENNIAL_HOME and the commands run in it.

    Attributes:
        path: The folder.
        python: Runs the commands, and the steps that they start.
        program: What it runs.
        environment: More than the home's own.
    """

    def __init__(self, path: Path, python: str | None = None, **environment: str) -> None:
        self.path = path
        self.python = python or warm.python(hash_seed=2)
        self.program = ["-m", "tasks.cli"]
        self.environment = environment

    def perennial(self, *arguments: str, code: int = 0) -> str:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("PERENNIAL_STORE", "MLFLOW_TRACKING_URI")
        }
        environment |= {
            "PERENNIAL_HOME": str(self.path),
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }
        done = subprocess.run(
            [self.python, *self.program, *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        assert code == 0 or "Traceback" not in output, output
        return output

    def run(self, name: str, *arguments: str, code: int = 0) -> str:
        return self.perennial("run", str(RECIPE), "--run", name, *arguments, code=code)

    def records(self, run: str) -> dict[str, dict[str, Any]]:
        folder = self.path / "store" / "runs" / run / "steps"
        return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def digests(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    return {
        step: {name: output["digest"] for name, output in record["outputs"].items()}
        for step, record in records.items()
    }


def ran(records: dict[str, dict[str, Any]]) -> set[str]:
    return {step for step, record in records.items() if not record["cached"]}


@pytest.fixture
def s3_server() -> Iterator[str]:
    """The address of a real S3 protocol server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which the recipe has run once."""
    home = Home(tmp_path_factory.mktemp("main-job") / "home", warm.python(hash_seed=1))
    home.run("one")
    return home


@pytest.fixture
def home(first: Home, tmp_path: Path) -> Home:
    """A copy of it. Paths inside MLflow's database name the original, which stays as it is."""
    shutil.copytree(first.path, tmp_path / "home", symlinks=True)
    return Home(tmp_path / "home")


def test_every_step_runs_the_first_time_and_says_so(first: Home) -> None:
    records = first.records("one")
    assert set(records) == set(STEPS)
    assert ran(records) == set(STEPS)
    assert all(record["reasons"] == ["never run before"] for record in records.values())


def test_nothing_changed_is_a_hit_from_end_to_end(home: Home) -> None:
    output = home.run("two")
    assert ran(home.records("two")) == set()
    assert digests(home.records("two")) == digests(home.records("one"))
    assert output.count("nothing changed since run one") == len(STEPS)


def test_a_changed_merge_reruns_the_merge_and_what_follows(home: Home) -> None:
    home.python = sys.executable  # as a user has it: every process is started anew
    output = home.run("two", "--set", "steps.merged.options.weight=0.3")
    records = home.records("two")
    assert ran(records) == {"merged", "report"}
    assert records["merged"]["reasons"] == ["options.weight changed: 0.5 -> 0.3"]
    assert "options.weight changed: 0.5 -> 0.3" in output


def test_p7_a_deleted_object_reruns_just_what_needs_it(home: Home) -> None:
    digest = home.records("one")["adapted"]["outputs"]["model"]["digest"]
    (home.path / "store" / "artefacts" / digest / "files" / "model.safetensors").unlink()
    home.run("two")
    records = home.records("two")
    assert ran(records) == {"adapted"}
    assert "missing" in records["adapted"]["reasons"][0]
    assert digests(records) == digests(home.records("one"))


def test_p7_an_altered_object_is_refused_and_made_again(home: Home) -> None:
    digest = home.records("one")["merged"]["outputs"]["model"]["digest"]
    weights = home.path / "store" / "artefacts" / digest / "files" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(damaged)
    home.run("two")
    records = home.records("two")
    assert ran(records) == {"merged"}
    assert "altered" in records["merged"]["reasons"][0]
    assert digests(records) == digests(home.records("one"))


def test_refresh_runs_a_step_again_and_gives_the_same(home: Home) -> None:
    home.run("two", "--refresh", "merged")
    records = home.records("two")
    assert ran(records) == {"merged"}
    assert digests(records) == digests(home.records("one"))


def test_promotion_makes_the_next_run_end_as_no_change(home: Home) -> None:
    plan = f"file://{home.path}/store/runs/one/plan.json"
    home.perennial("promote", "--plan", plan, "--by", "ada", "--reason", "the report")
    frozen = home.perennial("plan", str(RECIPE), "--freeze", "--run", "two")
    assert "no change" in frozen
    home.perennial("unchanged", "--plan", plan.replace("/one/", "/two/"), code=10)
    assert ran(home.records("two")) == set()
    home.run("three", "--set", "steps.merged.options.weight=0.3")
    home.perennial(
        "promote", "--model", "tiny", "--version", "candidate", "--by", "bob", "--reason", "better"
    )
    back = home.perennial("rollback", "tiny", "--by", "eve", "--reason", "complaints")
    assert "champion: 1, previous: 2" in back
    history = home.perennial("history", "tiny")
    for word in ("ada", "the report", "bob", "better", "eve", "complaints"):
        assert word in history
    assert "tiny: 2 of 2 versions are accounted for" in home.perennial("audit", "tiny")
    compared = home.perennial("compare", "tiny", "1", "2")
    assert "steps.merged.options.weight" in compared
    assert "bits_per_byte" in compared
    assert "## Known regressions" in home.perennial("card", "tiny", "2")


def test_the_version_leads_to_every_digest_and_loads_with_transformers(first: Home) -> None:
    code = """
import json, sys, mlflow, transformers
client = mlflow.MlflowClient()
version = client.get_model_version_by_alias("tiny", "candidate")
path = mlflow.artifacts.download_artifacts("models:/tiny@candidate")
model = transformers.AutoModelForCausalLM.from_pretrained(path)
tokenizer = transformers.AutoTokenizer.from_pretrained(path)
model(**tokenizer("a list of names", return_tensors="pt", return_token_type_ids=False))
parent = client.get_run(version.run_id)
nested = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{version.run_id}'")
print("RESULT", json.dumps({
    "tags": version.tags, "parameters": model.num_parameters(),
    "nested": {run.data.tags["perennial.step"]: dict(run.data.tags) for run in nested},
    "status": [run.info.status for run in [parent, *nested]],
}))
"""
    database = f"sqlite:///{first.path}/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"MLFLOW_TRACKING_URI": database},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    result = json.loads(found[1])
    records = first.records("one")
    plan = json.loads((first.path / "store" / "runs" / "one" / "plan.json").read_text())
    assert set(result["nested"]) == set(STEPS)
    assert set(result["status"]) == {"FINISHED"}
    for name, pin in plan["data"].items():
        assert result["tags"][f"perennial.data.{name}"] == pin["digest"]
    assert result["tags"]["perennial.recipe_digest"] == plan["recipe_digest"]
    for step, record in records.items():
        tags = result["nested"][step]
        for name, output in record["outputs"].items():
            assert tags[f"perennial.output.{name}"] == output["digest"]
        for port, many in record["inputs"].items():
            assert [tags[f"perennial.input.{port}.{place}"] for place in range(len(many))] == many
    assert result["tags"]["perennial.step.adapted"] == records["adapted"]["outputs"]["model"]["digest"]
    assert result["parameters"] > 0


def test_the_same_plan_on_s3_gives_the_same_digests(first: Home, tmp_path: Path, s3_server: str) -> None:
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    session = boto3.Session("test", "test", region_name="us-east-1")
    client = session.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="perennial")
    where = {"PERENNIAL_STORE": "s3://perennial/main", "AWS_ENDPOINT_URL": s3_server, **keys}
    unsigned = Home(tmp_path / "home", **where).run("one", code=int(Failure.CONFIG_INVALID))
    assert "PERENNIAL_TRUSTED_KEYS does not name" in unsigned  # said before any work is done
    remote = Home(tmp_path / "home", PERENNIAL_SIGNING_KEY=str(first.path / "keys" / "signing.pem"), **where)
    remote.run("one")
    found: dict[str, dict[str, Any]] = {}
    for step in STEPS:
        body = client.get_object(Bucket="perennial", Key=f"main/runs/one/steps/{step}.json")["Body"].read()
        found[step] = json.loads(body)
    assert digests(found) == digests(first.records("one"))


def test_mlflow_away_keeps_the_result_and_a_retry_only_logs(home: Home) -> None:
    plan = f"file://{home.path}/store/runs/two/plan.json"
    home.perennial(
        "plan", str(RECIPE), "--freeze", "--run", "two", "--set", "steps.merged.options.weight=0.3"
    )
    for step in STEPS[: STEPS.index("merged")]:
        home.perennial("step", "--plan", plan, "--step", step)
    away = Home(home.path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    away.program = [str(Path(__file__).with_name("impatient_perennial.py"))]
    output = away.perennial("step", "--plan", plan, "--step", "merged", code=6)
    assert "MLflow" in output
    again = home.perennial("step", "--plan", plan, "--step", "merged")
    assert "cached" in again
    record = home.records("two")["merged"]
    assert record["attempts"] == 1
    assert record["reasons"] == ["options.weight changed: 0.5 -> 0.3"]


def test_gates_that_fail_register_nothing(home: Home) -> None:
    output = home.run("two", "--set", "release.gates.learned-the-news.at_most=-0.99", code=8)
    assert "learned-the-news" in output
    assert (
        json.loads((home.path / "store" / "runs" / "two" / "release.json").read_text())["outcome"]
        == "refused"
    )
