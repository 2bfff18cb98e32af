"""docs/deploy.md says what the manifests are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

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


PROGRAM = """#!/bin/sh
echo "$(basename $0) $*" >> {log}
while [ $# -gt 0 ]; do
  [ "$1" = --digestfile ] && printf 'sha256:f%063d' "$(wc -l < {log})" > "$2"
  shift
done
exit 0
"""


def test_its_images_are_pushed_mirrored_and_pinned(tmp_path: Path) -> None:
    """The commands of section 2, run on a copy: what they push is what the manifests name, by digest."""
    site, log = tmp_path / "site", tmp_path / "calls"
    for folder in ("k8s", "docker"):
        shutil.copytree(ROOT / folder, site / folder, ignore=shutil.ignore_patterns("wheels"))
    (tmp_path / "bin").mkdir()
    for name in ("make", "podman", "skopeo"):
        program = tmp_path / "bin" / name
        program.write_text(PROGRAM.format(log=log))
        program.chmod(0o755)
    (block,) = [each for each in BLOCKS if "make images" in each]
    script = commands(block).replace("REGISTRY=registry.example.com", "REGISTRY=registry.site.test:5000/ml")
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=site, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "", "an image is not pinned"  # what the last command of the block finds

    calls = log.read_text().splitlines()
    assert calls[0] == "make images ENGINE=podman"
    pushed = {call.split()[-1] for call in calls if call.startswith("podman push")}
    copied = {
        re.sub("docker://(.*):[^:/]*", r"\1", call.split()[-1]): call
        for call in calls
        if call.startswith("skopeo copy")
    }
    assert all("--all" in call for call in copied.values()), "an index has another digest than its images"
    kustomization = yaml.safe_load((site / "k8s/components/images/kustomization.yaml").read_text())
    exporter = yaml.safe_load((site / "k8s/airflow/values.yaml").read_text())["images"]["statsd"]
    named_here = {each["newName"]: each["digest"] for each in kustomization["images"]}
    named_here[exporter["repository"]] = exporter["tag"].partition("@")[2]
    assert pushed | set(copied) == set(named_here)
    assert len(set(named_here.values())) == 6
    for place, call in copied.items():
        assert f"@{named_here[place]} " in call or "--digestfile" in call, place


def test_the_values_of_both_overlays_are_named() -> None:
    section = PAGE.partition("## 6.")[2].partition("## 7.")[0]
    assert {"k8s/airflow/values-prod.yaml", "k8s/airflow/values-dev.yaml"} <= set(
        re.findall(r"VALUES=([\w/.-]+)", section)
    )


def test_what_nobody_starts_by_hand_and_what_pages_start_is_unpaused() -> None:
    """DAGs are made paused (values.yaml); a run of one that is paused waits for ever."""
    told = re.search(r"for dag in (.*); do", PAGE)
    assert told
    ids: dict[str, bool] = {}
    for path in (ROOT / "dags").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'dag_id="(\w+)"', text):
            ids[name] = "schedule=None" not in text
    scheduled = {name for name, has in ids.items() if has}
    assert scheduled >= {"watchdog", "retention"}
    unpaused = {name for name in told[1].split() if not name.startswith("train__")}
    assert scheduled | {"promote", "rollback"} <= unpaused <= set(ids)


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
