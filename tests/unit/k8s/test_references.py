"""Nothing that is referred to is missing: accounts, settings, secrets and their keys, volumes, queues."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.k8s.rendered import (
    OVERLAYS,
    SIZES,
    Object,
    Workload,
    named,
    overlay,
    pod_templates,
    quantity,
    secrets,
    strings,
    values,
    workloads,
)

MADE_BY_OTHERS = {("perennial", "mlflow-tls")}
"""Secrets that cert-manager makes from an annotation of the Ingress."""


def missing(pod: Workload, name: str) -> Iterator[str]:
    """What a pod refers to and nobody makes."""
    settings = named(name, "ConfigMap", pod.namespace)
    if pod.spec["serviceAccountName"] not in named(name, "ServiceAccount", pod.namespace):
        yield f"service account {pod.spec['serviceAccountName']}"
    if pod.spec.get("priorityClassName", "") not in {"", *named(name, "PriorityClass")}:
        yield f"priority class {pod.spec['priorityClassName']}"
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume and volume["configMap"]["name"] not in settings:
            yield f"config map {volume['configMap']['name']}"
        if "secret" in volume:
            secret = (pod.namespace, volume["secret"]["secretName"])
            if secret not in secrets(name) and not volume["secret"].get("optional"):
                yield f"secret {secret}"
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            if claim not in named(name, "PersistentVolumeClaim", pod.namespace):
                yield f"claim {claim}"
    volumes = {each["name"]: each for each in pod.spec.get("volumes", [])}
    for container in pod.containers:
        for source in container.get("envFrom", []):
            if source["configMapRef"]["name"] not in settings:
                yield f"config map {source['configMapRef']['name']}"
        yield from unmounted(container, volumes, pod, name)


BY_HAND = {("perennial", "perennial-webhook"): frozenset({"secret"})}
"""Secrets that an operator makes if he wants what they are for (docs/deploy.md), and their keys."""


def unmounted(container: Object, volumes: dict[str, Object], pod: Workload, name: str) -> Iterator[str]:
    """Volumes that are not there, and files that no volume holds."""
    files: dict[str, frozenset[str]] = {}
    for mount in container.get("volumeMounts", []):
        volume = volumes.get(mount["name"])
        if volume is None:
            if not (pod.kind == "StatefulSet" and mount["name"] == "data"):
                yield f"volume {mount['name']}"
        elif "secret" in volume:
            key = (pod.namespace, volume["secret"]["secretName"])
            files[mount["mountPath"]] = {**BY_HAND, **secrets(name)}.get(key, frozenset())
        elif "configMap" in volume:
            found = named(name, "ConfigMap", pod.namespace).get(volume["configMap"]["name"], {"data": {}})
            files[mount["mountPath"]] = frozenset(found["data"])
    told = [*strings(container.get("env", [])), *strings(container.get("command", []))]
    for text in [*told, *strings(container.get("args", []))]:
        for path in re.findall(r"/etc/perennial/[\w./-]+", text):
            folder, _, file = path.rpartition("/")
            if file not in files.get(folder, frozenset()):
                yield f"{container['name']}: no volume holds {path}"


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_pods_refer_to_exists(name: str) -> None:
    assert {str(pod): lost for pod in workloads(name) if (lost := list(missing(pod, name)))} == {}


def test_a_dangling_reference_is_seen() -> None:
    spec: dict[str, Any] = {
        "serviceAccountName": "nobody",
        "priorityClassName": "none",
        "volumes": [
            {"name": "a", "secret": {"secretName": "lost"}},
            {"name": "b", "configMap": {"name": "lost"}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "lost"}},
            {"name": "d", "secret": {"secretName": "mlflow-server"}},
        ],
        "containers": [
            {
                "name": "main",
                "command": ["cat", "/etc/perennial/server/flask_secret_kee"],
                "envFrom": [{"configMapRef": {"name": "lost"}}],
                "volumeMounts": [
                    {"name": "d", "mountPath": "/etc/perennial/server"},
                    {"name": "gone", "mountPath": "/x"},
                ],
            }
        ],
    }
    assert len(list(missing(Workload("Job", "x", "perennial", {}, spec), "dev"))) == 8


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_setting_read_from_a_mounted_secret_exists_for_the_scripts(name: str) -> None:
    """mlflow/*.sh and accounts.py read these files by their default paths."""
    known = secrets(name)
    assert "flask_secret_key" in known["perennial", "mlflow-server"]
    assert "password" in known["perennial", "mlflow-admin"]
    assert "credentials" in known["perennial", "perennial-mlflow"]
    assert known["perennial-steps", "perennial-mlflow"] == known["perennial", "perennial-mlflow"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_services_budgets_and_ingresses_find_their_pods(name: str) -> None:
    pods = workloads(name)
    for kind, selector in (("Service", ("selector",)), ("PodDisruptionBudget", ("selector", "matchLabels"))):
        for made in [each for each in overlay(name) if each["kind"] == kind]:
            wanted = made["spec"]
            for key in selector:
                wanted = wanted[key]
            fitting = [
                pod
                for pod in pods
                if pod.namespace == made["metadata"]["namespace"] and wanted.items() <= pod.labels.items()
            ]
            assert len(fitting) == 1, made["metadata"]
            if kind == "Service":
                ports = {port["name"] for each in fitting[0].containers for port in each.get("ports", [])}
                assert {port["targetPort"] for port in made["spec"]["ports"]} <= ports
    for made in named(name, "Ingress").values():
        for rule in made["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = named(name, "Service")[path["backend"]["service"]["name"]]
                ports = {port["name"] for port in service["spec"]["ports"]}
                assert path["backend"]["service"]["port"]["name"] in ports
        for tls in made["spec"]["tls"]:
            assert (made["metadata"]["namespace"], tls["secretName"]) in MADE_BY_OTHERS


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_account_may_pull(name: str) -> None:
    """The pull secret exists where an account names it."""
    for made in [each for each in overlay(name) if each["kind"] == "ServiceAccount"]:
        for secret in made.get("imagePullSecrets", []):
            assert (made["metadata"]["namespace"], secret["name"]) in secrets(name)


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_helms_values_refer_to_exists(name: str) -> None:
    given = values(name)
    accounts = named(name, "ServiceAccount", "perennial")
    assert set(_found(given, "serviceAccount", "name")) <= set(accounts)
    assert set(_found(given, "priorityClassName")) <= set(named(name, "PriorityClass"))
    known = {secret for namespace, secret in secrets(name) if namespace == "perennial"}
    by_hand = {secret for _, secret in BY_HAND}
    assert set(_found(given, "secretName")) - {"airflow-tls"} <= known | by_hand
    for volume in given["scheduler"]["extraVolumes"]:
        if volume.get("secret", {}).get("secretName") in by_hand:
            assert volume["secret"]["optional"] is True
    assert {*given["imagePullSecrets"], given["fernetKeySecretName"], given["jwtSecretName"]} <= known
    settings = named(name, "ConfigMap", "perennial")
    assert set(_found(given, "configMap", "name")) <= set(settings)
    assert set(re.findall(r"configMapRef: {name: ([\w-]+)}", given["extraEnvFrom"])) <= set(settings)
    claims = set(named(name, "PersistentVolumeClaim", "perennial"))
    assert set(_found(given, "existingClaim")) <= claims


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_file_that_airflow_is_told_of_is_mounted(name: str) -> None:
    given = values(name)
    for part in ("scheduler", "triggerer", "dagProcessor", "apiServer", "migrateDatabaseJob"):
        own = given[part]
        volumes = [*given["volumes"], *own.get("extraVolumes", [])]
        container = {
            "name": part,
            "env": [*given["env"], *own.get("env", [])],
            "args": own.get("args", []),
            "volumeMounts": [*given["volumeMounts"], *own.get("extraVolumeMounts", [])],
        }
        if part in ("scheduler", "apiServer") and name == "dev":
            told = named(name, "ConfigMap")["object-store"]["data"]["AWS_SHARED_CREDENTIALS_FILE"]
            container["env"].append({"name": "AWS_SHARED_CREDENTIALS_FILE", "value": told})
        pod = Workload("Deployment", part, "perennial", {}, {})
        assert list(unmounted(container, {each["name"]: each for each in volumes}, pod, name)) == []


def _found(value: Any, *keys: str) -> Iterator[str]:
    """The texts at a path of keys, wherever it is in a structure."""
    if isinstance(value, dict):
        at: Any = value
        for key in keys:
            at = at.get(key) if isinstance(at, dict) else None
        if isinstance(at, str):
            yield at
        for each in value.values():
            yield from _found(each, *keys)
    elif isinstance(value, list):
        for each in value:
            yield from _found(each, *keys)


def test_the_production_secrets_have_stores_and_the_queues_their_quotas() -> None:
    for made in [each for each in overlay("prod") if each["kind"] == "ExternalSecret"]:
        namespace = made["metadata"]["namespace"]
        store = named("prod", "SecretStore", namespace)[made["spec"]["secretStoreRef"]["name"]]
        account = store["spec"]["provider"]["aws"]["auth"]["jwt"]["serviceAccountRef"]["name"]
        assert account in named("prod", "ServiceAccount", namespace)
    queues = named("prod", "ClusterQueue")
    for made in named("prod", "LocalQueue").values():
        for group in queues[made["spec"]["clusterQueue"]]["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                assert flavor["name"] in named("prod", "ResourceFlavor")
    told = named("prod", "ConfigMap")["perennial-settings"]["data"]
    assert told["PERENNIAL_QUEUE"] in named("prod", "LocalQueue", "perennial-steps")
    assert told["PERENNIAL_SHARED_CLAIM"] in named("prod", "PersistentVolumeClaim", "perennial-steps")


def test_kueues_quota_stays_inside_the_namespaces() -> None:
    """A job that Kueue admits must not be refused by the ResourceQuota."""
    hard = named("prod", "ResourceQuota", "perennial-steps")["steps"]["spec"]["hard"]
    for queue in named("prod", "ClusterQueue").values():
        for group in queue["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                for row in flavor["resources"]:
                    limit = hard[f"requests.{row['name']}"]
                    assert quantity(row["nominalQuota"]) <= quantity(limit), row["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_the_pods_of_steps_refer_to_exists(name: str) -> None:
    templates = pod_templates()
    flavors = [each["spec"]["nodeLabels"] for each in named(name, "ResourceFlavor").values()]
    assert set(SIZES[name]) <= set(templates)
    for size in SIZES[name]:
        spec = templates[size]["spec"]
        pod = Workload("Pod", size, templates[size]["metadata"]["namespace"], {}, spec)
        assert pod.namespace == "perennial-steps"
        assert list(missing(pod, name)) == []
        if size == "large" and flavors:
            assert all(labels.items() <= spec["nodeSelector"].items() for labels in flavors)
