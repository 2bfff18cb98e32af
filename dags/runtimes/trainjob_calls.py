"""Calls about custom objects: tried again where Kubernetes is only busy, as by Airflow's provider."""

from __future__ import annotations

import os

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook, KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from kubernetes.client import CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from runtimes.trainjob_api import Api, Object


def hook(connection: str) -> KubernetesHook:
    """The provider's hook: by a connection of Airflow's, else KUBECONFIG, else the account of this pod."""
    if connection:
        return KubernetesHook(conn_id=connection)
    path = os.environ.get("KUBECONFIG")
    inside = path is None and "KUBERNETES_SERVICE_HOST" in os.environ
    return KubernetesHook(kubernetes_conn_id=None, config_file=path, in_cluster=inside or None)


def async_hook(connection: str) -> AsyncKubernetesHook:
    """The same for the triggerer, from its own environment: no credentials go through Airflow's database."""
    if connection:
        return AsyncKubernetesHook(conn_id=connection)
    path = os.environ.get("KUBECONFIG")
    if path is not None:
        extras = {"kube_config_path": path}
        return AsyncKubernetesHook(kubernetes_conn_id=None, connection_extras=extras)
    inside = "KUBERNETES_SERVICE_HOST" in os.environ
    return AsyncKubernetesHook(kubernetes_conn_id=None, in_cluster=inside or None)


@generic_api_retry  # type: ignore[untyped-decorator]
def create(custom: CustomObjectsApi, api: Api, made: Object) -> bool:
    """Make an object; False where there is one of its name."""
    try:
        custom.create_namespaced_custom_object(
            **api.where, namespace=made["metadata"]["namespace"], body=made
        )
    except ApiException as error:
        if error.status == 409:
            return False
        raise
    return True


@generic_api_retry  # type: ignore[untyped-decorator]
def replace(custom: CustomObjectsApi, api: Api, made: Object) -> None:
    """Write an object over the version that `made` names."""
    metadata = made["metadata"]
    custom.replace_namespaced_custom_object(
        **api.where, namespace=metadata["namespace"], name=metadata["name"], body=made
    )


@generic_api_retry  # type: ignore[untyped-decorator]
def get(custom: CustomObjectsApi, api: Api, namespace: str, name: str) -> Object | None:
    """An object, or None where there is none."""
    try:
        found: Object = custom.get_namespaced_custom_object(**api.where, namespace=namespace, name=name)
    except ApiException as error:
        if error.status == 404:
            return None
        raise
    return found


@generic_api_retry  # type: ignore[untyped-decorator]
def is_installed(custom: CustomObjectsApi, api: Api, namespace: str) -> bool:
    """Whether the cluster knows a kind."""
    try:
        custom.list_namespaced_custom_object(**api.where, namespace=namespace, limit=1)
    except ApiException as error:
        if error.status == 404:
            return False
        raise
    return True


@generic_api_retry  # type: ignore[untyped-decorator]
def delete(custom: CustomObjectsApi, api: Api, namespace: str, name: str, uid: str = "") -> None:
    """Delete an object after all that belongs to it; not another one of its name, where `uid` is given."""
    body: Object = {"propagationPolicy": "Foreground"}
    if uid:
        body["preconditions"] = {"uid": uid}
    try:
        custom.delete_namespaced_custom_object(**api.where, namespace=namespace, name=name, body=body)
    except ApiException as error:
        if error.status not in (404, 409):  # it is gone; or another one has its name
            raise
