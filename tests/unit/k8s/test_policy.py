"""Every pod of the manifests keeps the rules of rules.py, and every rule sees a pod that does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from tests.unit.k8s.rendered import (
    K8S,
    OVERLAYS,
    ROOT,
    Workload,
    overlay,
    pod_templates,
    workload,
    workloads,
)
from tests.unit.k8s.rules import RULES, SERVERS

GOOD: dict[str, Any] = {
    "serviceAccountName": "one",
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 7,
        "fsGroup": 7,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "containers": [
        {
            "name": "main",
            "image": "registry.example.com/a/b@sha256:" + "0" * 64,
            "env": [{"name": "PASSWORD_FILE", "value": "/etc/x"}],
            "readinessProbe": {},
            "livenessProbe": {},
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
    "volumes": [
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "secret", "secret": {"secretName": "x", "defaultMode": 0o440}},
    ],
}

BREAKS: list[tuple[str, tuple[Any, ...], Any]] = [
    ("runs_as_non_root", ("securityContext", "runAsUser"), 0),
    ("runs_as_non_root", ("securityContext", "runAsNonRoot"), None),
    ("read_only_root", ("containers", 0, "securityContext", "readOnlyRootFilesystem"), False),
    ("no_privilege", ("containers", 0, "securityContext", "allowPrivilegeEscalation"), None),
    ("no_privilege", ("containers", 0, "securityContext", "privileged"), True),
    ("drops_all_capabilities", ("containers", 0, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}),
    ("drops_all_capabilities", ("containers", 0, "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
    ("seccomp", ("securityContext", "seccompProfile"), {"type": "Unconfined"}),
    ("resources_set", ("containers", 0, "resources", "limits"), {}),
    ("images_pinned", ("containers", 0, "image"), "registry.example.com/a/b:latest"),
    ("images_pinned", ("containers", 0, "image"), "postgres"),
    ("nothing_of_the_host", ("hostNetwork",), True),
    ("nothing_of_the_host", ("volumes", 0), {"name": "tmp", "hostPath": {"path": "/"}}),
    ("servers_have_probes", ("containers", 0), {"name": "main"}),
    ("account_of_its_own", ("serviceAccountName",), "default"),
    ("no_token_it_does_not_need", ("automountServiceAccountToken",), True),
    (
        "no_secret_in_environment",
        ("containers", 0, "env"),
        [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    ),
    ("no_secret_in_environment", ("containers", 0, "env"), [{"name": "DB_PASSWORD", "value": "hunter2"}]),
    ("no_secret_in_environment", ("containers", 0, "env"), [{"name": "DB", "value": "postgres://a:b@c/d"}]),
    ("no_secret_in_environment", ("containers", 0, "envFrom"), [{"secretRef": {"name": "s"}}]),
    ("volumes_are_bounded", ("volumes", 0, "emptyDir"), {}),
    ("secrets_are_read_by_the_group", ("volumes", 1, "secret", "defaultMode"), 0o644),
    ("secrets_are_read_by_the_group", ("securityContext",), {}),
    ("service_links_off", ("enableServiceLinks",), None),
]


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("rule", RULES)
def test_every_pod_keeps_the_rule(name: str, rule: str) -> None:
    wrong = {str(pod): found for pod in workloads(name) if (found := list(RULES[rule](pod)))}
    assert wrong == {}


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"images_pinned"}))
def test_the_pods_of_steps_keep_the_rule(rule: str) -> None:
    """The runtime sets the image, by digest, so the templates have none."""
    templates = pod_templates()
    if not templates:
        pytest.skip("k8s/pod_templates/ is not there")
    wrong = {}
    for size, template in templates.items():
        pod = workload({**template, "metadata": {**template["metadata"], "name": size}})
        if found := list(RULES[rule](pod)):
            wrong[size] = found
    assert wrong == {}


def pod(spec: dict[str, Any]) -> Workload:
    return Workload("Deployment", "one", "perennial", {}, spec)


@pytest.mark.parametrize("rule", RULES)
def test_a_good_pod_passes(rule: str) -> None:
    assert list(RULES[rule](pod(GOOD))) == []


@pytest.mark.parametrize(("rule", "where", "what"), BREAKS)
def test_the_rule_sees_a_bad_pod(rule: str, where: tuple[Any, ...], what: Any) -> None:
    spec = copy.deepcopy(GOOD)
    at: Any = spec
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = what
    assert list(RULES[rule](pod(spec)))


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _, _ in BREAKS} == set(RULES)


@pytest.mark.parametrize("name", OVERLAYS)
def test_p13_every_image_is_named_in_one_place(name: str) -> None:
    """P13: upstream images vanish. Ours have one registry and one list of digests."""
    images = {each["image"] for pod in workloads(name) for each in pod.containers}
    assert images
    assert {image.split("/")[0] for image in images} == {"registry.example.com"}


def test_p13_what_is_mirrored_has_the_digests_of_the_lock() -> None:
    lock = ROOT / "docker" / "images.lock"
    if not lock.exists():
        pytest.skip("docker/images.lock is not there")
    text = (K8S / "components" / "images" / "kustomization.yaml").read_text(encoding="utf-8")
    mirrored = [each for each in yaml.safe_load(text)["images"] if "/mirror/" in each["newName"]]
    assert {each["name"] for each in mirrored} == {"postgres", "versity/versitygw"}
    for each in mirrored:
        assert f"/{each['name']}:" in lock.read_text(encoding="utf-8")
        assert f"@{each['digest']}" in lock.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_server_may_be_moved_but_not_all_at_once(name: str) -> None:
    """A PodDisruptionBudget for each server, which does not block the draining of a node either."""
    budgets = [each for each in overlay(name) if each["kind"] == "PodDisruptionBudget"]
    for server in [each for each in workloads(name) if each.kind in SERVERS]:
        fitting = [
            budget["spec"]
            for budget in budgets
            if budget["metadata"]["namespace"] == server.namespace
            and budget["spec"]["selector"]["matchLabels"].items() <= server.labels.items()
        ]
        assert [spec.get("maxUnavailable") for spec in fitting] == [1], server


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_namespace_enforces_the_restricted_standard(name: str) -> None:
    spaces = [each["metadata"] for each in overlay(name) if each["kind"] == "Namespace"]
    assert {each["name"] for each in spaces} == {"perennial", "perennial-steps"}
    for each in spaces:
        for mode in ("enforce", "audit", "warn"):
            assert each["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
