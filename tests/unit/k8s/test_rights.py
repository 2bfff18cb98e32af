"""Rights in Kubernetes and identities in the cloud: each role the least, steps none."""

from __future__ import annotations

import pytest

from tests.unit.k8s.rendered import OVERLAYS, Object, named, overlay, pod_templates, values

GRANTED: dict[str, set[tuple[str, str]]] = {
    "airflow-scheduler": {("perennial-steps", "run-steps")},
    "airflow-triggerer": {("perennial-steps", "watch-steps")},
    "pod-reaper": {("perennial-steps", "reap-steps")},
}
"""Account -> the roles it is bound to. No other account is bound to anything."""

NEVER = {"*", "escalate", "bind", "impersonate", "deletecollection"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_who_is_named_here_has_rights(name: str) -> None:
    found: dict[str, set[tuple[str, str]]] = {}
    for made in overlay(name):
        assert made["kind"] not in ("ClusterRole", "ClusterRoleBinding")
        if made["kind"] != "RoleBinding":
            continue
        namespace = made["metadata"]["namespace"]
        assert made["roleRef"]["name"] in named(name, "Role", namespace)
        for subject in made["subjects"]:
            assert subject["kind"] == "ServiceAccount"
            assert subject["name"] in named(name, "ServiceAccount", subject["namespace"])
            found.setdefault(subject["name"], set()).add((namespace, made["roleRef"]["name"]))
    assert found == GRANTED


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_role_reaches_secrets_or_shells(name: str) -> None:
    for role in named(name, "Role").values():
        for rule in role["rules"]:
            verbs, resources = set(rule["verbs"]), set(rule["resources"])
            assert not verbs & NEVER
            assert "*" not in rule["apiGroups"]
            assert not resources & {"*", "secrets", "pods/exec", "pods/attach", "serviceaccounts/token"}


def _can(rules: list[Object], verb: str, resource: str) -> bool:
    return any(verb in rule["verbs"] and resource in rule["resources"] for rule in rules)


@pytest.mark.parametrize(
    ("role", "verb", "resource", "may"),
    [
        ("run-steps", "create", "pods", True),  # start a step
        ("run-steps", "patch", "pods", True),  # label one whose end was dealt with
        ("run-steps", "get", "pods/log", True),
        ("run-steps", "list", "events", True),  # why a pod does not start
        ("run-steps", "create", "trainjobs", True),
        ("run-steps", "update", "trainingruntimes", True),
        ("run-steps", "create", "jobsets", True),
        ("run-steps", "delete", "jobsets", True),
        ("watch-steps", "watch", "pods", True),
        ("watch-steps", "delete", "pods", True),  # a cancelled task
        ("watch-steps", "delete", "trainingruntimes", True),
        ("watch-steps", "create", "pods", False),
        ("watch-steps", "create", "trainjobs", False),
        ("watch-steps", "patch", "pods", False),
        ("reap-steps", "list", "pods", True),
        ("reap-steps", "delete", "pods", True),
        ("reap-steps", "get", "trainjobs", True),  # whose TrainingRuntime is nobody's
        ("reap-steps", "list", "trainingruntimes", True),
        ("reap-steps", "delete", "trainingruntimes", True),
        ("reap-steps", "delete", "trainjobs", True),
        ("reap-steps", "delete", "jobsets", True),
        ("reap-steps", "create", "pods", False),
        ("reap-steps", "patch", "pods", False),
        ("reap-steps", "get", "pods/log", False),
    ],
)
def test_the_roles_hold_what_the_runtimes_call(role: str, verb: str, resource: str, may: bool) -> None:
    assert _can(named("prod", "Role")[role]["rules"], verb, resource) is may


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_who_needs_kubernetes_gets_a_token(name: str) -> None:
    with_token = {
        each["metadata"]["name"]
        for each in overlay(name)
        if each["kind"] == "ServiceAccount" and each.get("automountServiceAccountToken") is not False
    }
    assert with_token == set(GRANTED)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_reaper_can_do_nothing_but_list_and_remove(name: str) -> None:
    rules = named(name, "Role")["reap-steps"]["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "delete"}
    told = {resource for rule in rules for resource in rule["resources"]}
    assert told == {"pods", "trainjobs", "trainingruntimes", "jobsets"}


def test_a_step_has_an_account_without_rights() -> None:
    templates = pod_templates()
    if not templates:
        pytest.skip("k8s/pod_templates/ is not there")
    for template in templates.values():
        assert template["spec"]["serviceAccountName"] == "perennial-step"
        assert template["spec"]["automountServiceAccountToken"] is False


def test_in_production_who_touches_the_store_has_an_identity_of_its_own() -> None:
    """IAM roles for service accounts: no key of S3 lies anywhere in the cluster."""
    roles = {
        each["metadata"]["name"]: each["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn")
        for each in overlay("prod")
        if each["kind"] == "ServiceAccount" and each["metadata"]["name"] != "secret-reader"
    }
    assert {name for name, role in roles.items() if role} == {
        "perennial-step",
        "airflow-scheduler",
        "airflow-api-server",
        "mlflow",
    }
    assert len(set(filter(None, roles.values()))) == 4
    assert "AWS_SHARED_CREDENTIALS_FILE" not in named("prod", "ConfigMap")["object-store"]["data"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_airflows_parts_use_these_accounts(name: str) -> None:
    given = values(name)
    assert given["rbac"]["create"] is False
    assert given["scheduler"]["serviceAccount"] == {"create": False, "name": "airflow-scheduler"}
    assert given["triggerer"]["serviceAccount"] == {"create": False, "name": "airflow-triggerer"}
    own = {"apiServer": "airflow-api-server"}  # it reads the store
    for part in ("apiServer", "dagProcessor", "migrateDatabaseJob"):
        assert given[part]["serviceAccount"] == {
            "create": False,
            "name": own.get(part, "airflow-server"),
            "automountServiceAccountToken": False,
        }
