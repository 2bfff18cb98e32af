"""docs/deploy.md says what the manifests are."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from tests.unit.k8s.rendered import K8S, ROOT, named, overlay

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)


def commands(block: str) -> str:
    """The commands of a block: lines after `$` and their continuations, without what they print."""
    kept, more = [], False
    for line in block.splitlines():
        if line.startswith("$ ") or more:
            kept.append(line.removeprefix("$ "))
            more = line.endswith("\\")
    return "\n".join(kept)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_command_is_shell(number: int) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=commands(BLOCKS[number]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_file_it_names_is_there() -> None:
    paths = set(re.findall(r"(?<![\w/])(?:k8s|mlflow)/[\w./*-]*\w", PAGE))
    assert len(paths) > 10
    assert [path for path in paths if not list(ROOT.glob(path))] == []


def test_the_table_of_secrets_is_what_the_operator_asks_for() -> None:
    wanted: dict[str, set[str]] = {}
    for made in overlay("prod"):
        if made["kind"] == "ExternalSecret":
            for row in made["spec"]["data"]:
                wanted.setdefault(row["remoteRef"]["key"], set()).add(row["remoteRef"]["property"])
    section = PAGE.partition("## 4.")[2].partition("## 5.")[0]
    told = dict(re.findall(r"^\| `(perennial/[\w-]+)` \| (.*) \|$", section, re.MULTILINE))
    assert told.keys() == wanted.keys()
    for key, properties in wanted.items():
        assert {each for each in properties if f"`{each}`" not in told[key]} == set(), key


def test_the_objects_it_waits_for_exist() -> None:
    objects = {
        f"{each['kind'].lower()}/{each['metadata']['name']}" for each in [*overlay("dev"), *overlay("prod")]
    }
    asked = set(re.findall(r"\b((?:job|deployment|service)/[\w-]+)", " ".join(map(commands, BLOCKS))))
    assert {each for each in asked if "/airflow-" not in each} <= objects
    assert asked


def test_the_charts_version_is_one() -> None:
    values = (K8S / "airflow" / "values.yaml").read_text(encoding="utf-8")
    told = {*re.findall(r"--version (\S+)", PAGE), *re.findall(r"chart (\d+\.\d+\.\d+)", PAGE)}
    assert told == {"1.22.0"}
    assert "apache-airflow/airflow 1.22.0" in values
    airflow = re.search(r"^apache-airflow==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert airflow
    assert yaml.safe_load(values)["airflowVersion"] == airflow[1]


def test_the_names_to_change_show_in_the_search_it_gives() -> None:
    pattern = re.search(r"grep -rnE '([^']+)' k8s/overlays/prod", PAGE)
    assert pattern
    for name in ("object-store", "identities", "network", "mlflow", "ingress", "volumes"):
        text = (K8S / "overlays" / "prod" / f"{name}.yaml").read_text(encoding="utf-8")
        assert re.search(pattern[1], text), name
    assert named("prod", "Ingress")["mlflow"]["spec"]["rules"][0]["host"] == "mlflow.example.com"
