"""Who may speak to whom, evaluated from the NetworkPolicies: what is needed passes, all else does not."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from tests.unit.k8s.rendered import OVERLAYS, Object, overlay, workloads

OUR_NAMESPACES = ("perennial", "perennial-steps")


@dataclass(frozen=True)
class Pod:
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    ip: str


def airflow(component: str) -> Pod:
    """A pod of the chart, with the labels that the chart gives it."""
    return Pod("perennial", {"tier": "airflow", "component": component, "release": "airflow"})


def ours(name: str) -> Pod:
    return Pod("perennial", {"app.kubernetes.io/name": name})


SCHEDULER, TRIGGERER, SERVER, PROCESSOR, MIGRATION = map(
    airflow, ("scheduler", "triggerer", "api-server", "dag-processor", "run-airflow-migrations")
)
MLFLOW, UPGRADE, GC, POSTGRES, S3 = map(ours, ("mlflow", "mlflow-upgrade", "mlflow-gc", "postgres", "s3"))
REAPER = ours("pod-reaper")
STEP = Pod("perennial-steps", {"app.kubernetes.io/name": "perennial", "perennial/resources": "gpu"})
RANK = Pod(
    "perennial-steps", {"app.kubernetes.io/name": "perennial", "jobset.sigs.k8s.io/jobset-name": "p-1"}
)
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})
PROMETHEUS, INGRESS, STRANGER = Pod("monitoring"), Pod("ingress-nginx"), Pod("default")
METADATA, KUBERNETES, DATABASE = Address("169.254.169.254"), Address("10.0.0.10"), Address("10.0.64.9")
PUBLIC, INSIDE = Address("52.95.1.1"), Address("10.7.7.7")

Flow = tuple[Pod | Address, Pod | Address, int, str]

NEEDED: list[Flow] = [
    *[(pod, DNS, 53, "UDP") for pod in (STEP, RANK, SCHEDULER, SERVER, MLFLOW, UPGRADE, GC, REAPER)],
    (STEP, MLFLOW, 5000, "TCP"),
    (RANK, RANK, 29500, "TCP"),
    (RANK, RANK, 41234, "TCP"),
    (SCHEDULER, MLFLOW, 5000, "TCP"),
    (SERVER, MLFLOW, 5000, "TCP"),  # `perennial page`
    (GC, MLFLOW, 5000, "TCP"),
    *[(pod, SERVER, 8080, "TCP") for pod in (SCHEDULER, TRIGGERER, PROCESSOR)],
    (SERVER, SCHEDULER, 8793, "TCP"),
    (SERVER, TRIGGERER, 8794, "TCP"),
    (SCHEDULER, airflow("statsd"), 9125, "UDP"),
    (PROMETHEUS, airflow("statsd"), 9102, "TCP"),
    (SCHEDULER, KUBERNETES, 443, "TCP"),
    (TRIGGERER, KUBERNETES, 6443, "TCP"),
    (REAPER, KUBERNETES, 443, "TCP"),
    (REAPER, KUBERNETES, 6443, "TCP"),
]

NEEDED_IN: Mapping[str, list[Flow]] = {
    "dev": [
        *[(pod, POSTGRES, 5432, "TCP") for pod in (SCHEDULER, SERVER, PROCESSOR, TRIGGERER, MIGRATION)],
        *[(pod, POSTGRES, 5432, "TCP") for pod in (MLFLOW, UPGRADE, GC)],
        *[(pod, S3, 7070, "TCP") for pod in (STEP, RANK, SCHEDULER, SERVER, MLFLOW, ours("s3-bucket"))],
    ],
    "prod": [
        *[(pod, DATABASE, 5432, "TCP") for pod in (SCHEDULER, SERVER, PROCESSOR, TRIGGERER, MIGRATION)],
        *[(pod, DATABASE, 5432, "TCP") for pod in (MLFLOW, UPGRADE, GC)],
        *[(pod, PUBLIC, 443, "TCP") for pod in (STEP, RANK, SCHEDULER, SERVER, MLFLOW)],
        (INGRESS, MLFLOW, 5000, "TCP"),
        (INGRESS, SERVER, 8080, "TCP"),
    ],
}

REFUSED: list[Flow] = [
    (STEP, SERVER, 8080, "TCP"),
    (STEP, SCHEDULER, 8793, "TCP"),
    (STEP, POSTGRES, 5432, "TCP"),
    (STEP, DATABASE, 5432, "TCP"),
    (STEP, KUBERNETES, 443, "TCP"),
    (STEP, METADATA, 80, "TCP"),
    (STEP, METADATA, 443, "TCP"),
    (STEP, PUBLIC, 80, "TCP"),
    (STEP, STEP, 29500, "TCP"),
    (STEP, RANK, 29500, "TCP"),
    (RANK, STEP, 29500, "TCP"),
    (SCHEDULER, STEP, 22, "TCP"),
    *[(pod, MLFLOW, 5000, "TCP") for pod in (TRIGGERER, PROCESSOR, MIGRATION)],
    (SERVER, KUBERNETES, 443, "TCP"),
    (MLFLOW, KUBERNETES, 443, "TCP"),
    (MLFLOW, SERVER, 8080, "TCP"),
    (MLFLOW, METADATA, 80, "TCP"),
    (GC, PUBLIC, 443, "TCP"),
    (REAPER, PUBLIC, 443, "TCP"),
    (REAPER, METADATA, 80, "TCP"),
    (REAPER, MLFLOW, 5000, "TCP"),
    (REAPER, SERVER, 8080, "TCP"),
    (REAPER, POSTGRES, 5432, "TCP"),
    (REAPER, DATABASE, 5432, "TCP"),
    (STRANGER, MLFLOW, 5000, "TCP"),
    (STRANGER, SERVER, 8080, "TCP"),
    (STRANGER, STEP, 29500, "TCP"),
    (INGRESS, airflow("statsd"), 9102, "TCP"),
]

REFUSED_IN: Mapping[str, list[Flow]] = {
    "dev": [
        *[(pod, PUBLIC, 443, "TCP") for pod in (STEP, SCHEDULER, SERVER, MLFLOW)],
        *[(pod, S3, 7070, "TCP") for pod in (PROCESSOR, TRIGGERER, GC, STRANGER)],
        (STRANGER, POSTGRES, 5432, "TCP"),
        (STEP, S3, 7071, "TCP"),
        (S3, PUBLIC, 443, "TCP"),
        (POSTGRES, PUBLIC, 443, "TCP"),
    ],
    "prod": [
        *[(pod, INSIDE, 443, "TCP") for pod in (STEP, SCHEDULER, SERVER, MLFLOW)],
        *[(pod, PUBLIC, 443, "TCP") for pod in (TRIGGERER, PROCESSOR)],
    ],
}


def fits(selector: Object, labels: Mapping[str, str]) -> bool:
    """A label selector, as Kubernetes reads it."""
    if not selector.get("matchLabels", {}).items() <= dict(labels).items():
        return False
    for each in selector.get("matchExpressions", []):
        value = labels.get(each["key"])
        if each["operator"] == "Exists":
            good = value is not None
        elif each["operator"] == "In":
            good = value in each["values"]
        else:
            raise AssertionError(f"this test does not know the operator {each['operator']}")
        if not good:
            return False
    return True


def is_peer(peer: Object, other: Pod | Address, namespace: str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        if isinstance(other, Pod):
            return False
        ip = ipaddress.ip_address(other.ip)
        return ip in ipaddress.ip_network(block["cidr"]) and not any(
            ip in ipaddress.ip_network(cidr) for cidr in block.get("except", [])
        )
    if isinstance(other, Address):
        return False
    if "namespaceSelector" in peer:
        if not fits(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace}):
            return False
    elif other.namespace != namespace:
        return False
    return fits(peer.get("podSelector", {}), other.labels)


def passes(
    policies: list[Object], pod: Pod, other: Pod | Address, port: int, protocol: str, way: str
) -> bool:
    """One side of a flow: `way` is Ingress or Egress."""
    peers, rules = ("from", "ingress") if way == "Ingress" else ("to", "egress")
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and way in policy["spec"]["policyTypes"]
        and fits(policy["spec"]["podSelector"], pod.labels)
    ]
    return not selecting or any(
        any(is_peer(peer, other, pod.namespace) for peer in rule.get(peers, []))
        and any(
            (each["port"], each["protocol"]) == (port, protocol)
            for each in rule.get("ports", [{"port": port, "protocol": protocol}])
        )
        for policy in selecting
        for rule in policy["spec"].get(rules, [])
    )


def allowed(name: str, flow: Flow) -> bool:
    source, target, port, protocol = flow
    policies = [each for each in overlay(name) if each["kind"] == "NetworkPolicy"]
    out = not isinstance(source, Pod) or passes(policies, source, target, port, protocol, "Egress")
    return out and (
        not isinstance(target, Pod) or passes(policies, target, source, port, protocol, "Ingress")
    )


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_is_needed_passes(name: str) -> None:
    assert [flow for flow in [*NEEDED, *NEEDED_IN[name]] if not allowed(name, flow)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_p3_all_else_is_refused_and_steps_never_call_airflow(name: str) -> None:
    """P3: pods that call Airflow die with its API. Ours cannot reach it, nor the metadata of their node."""
    assert [flow for flow in [*REFUSED, *REFUSED_IN[name]] if allowed(name, flow)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_is_under_a_policy_that_denies_by_default(name: str) -> None:
    denied = {
        each["metadata"]["namespace"]
        for each in overlay(name)
        if each["kind"] == "NetworkPolicy"
        and each["spec"].keys() == {"podSelector", "policyTypes"}
        and each["spec"]["podSelector"] == {}
        and set(each["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    }
    assert denied == set(OUR_NAMESPACES)
    assert {pod.namespace for pod in workloads(name)} <= denied


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_rule_is_open_to_everyone(name: str) -> None:
    """A rule without peers would let anyone in; one without ports is only for ranks."""
    for policy in [each for each in overlay(name) if each["kind"] == "NetworkPolicy"]:
        for peers, rules in (("from", "ingress"), ("to", "egress")):
            for rule in policy["spec"].get(rules, []):
                assert rule.get(peers), policy["metadata"]["name"]
                assert rule.get("ports") or policy["metadata"]["name"] == "ranks"
