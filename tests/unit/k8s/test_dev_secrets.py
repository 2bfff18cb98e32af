"""The random secrets of the dev overlay are of the kinds that their readers take."""

from __future__ import annotations

import configparser
import json

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy.engine import make_url

from tests.unit.k8s.rendered import dev_secrets, named


def texts(name: str, namespace: str = "perennial") -> dict[str, str]:
    for each in dev_secrets():
        if (each["metadata"]["name"], each["metadata"]["namespace"]) == (name, namespace):
            found: dict[str, str] = each["stringData"]
            return found
    raise AssertionError(f"no secret {namespace}/{name}")


def test_airflow_can_encrypt_and_connect() -> None:
    airflow = texts("airflow")
    assert Fernet(airflow["fernet_key"]).decrypt(Fernet(airflow["fernet_key"]).encrypt(b"x")) == b"x"
    url = make_url(airflow["sql_alchemy_conn"])
    assert (url.username, url.database) == ("airflow", "airflow")
    assert url.password == texts("postgres")["airflow_password"]
    service = named("dev", "Service")["postgres"]
    assert url.host == f"postgres.{service['metadata']['namespace']}.svc.cluster.local"
    assert url.port == service["spec"]["ports"][0]["port"]
    assert json.loads(airflow["passwords.json"])["admin"]


def test_releases_can_be_signed() -> None:
    key = load_pem_private_key(texts("perennial-signing")["key.pem"].encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)


@pytest.mark.parametrize("namespace", ["perennial", "perennial-steps"])
def test_the_stores_key_is_the_s3_servers(namespace: str) -> None:
    keys = configparser.ConfigParser(interpolation=None)
    keys.read_string(texts("perennial-store", namespace)["credentials"])
    server = dict(line.split("=", 1) for line in texts("s3-server")["root.env"].splitlines())
    assert keys["default"]["aws_access_key_id"] == server["ROOT_ACCESS_KEY"]
    assert keys["default"]["aws_secret_access_key"] == server["ROOT_SECRET_KEY"]


def test_mlflow_connects_as_the_databases_owner() -> None:
    services = configparser.ConfigParser(interpolation=None)
    services.read_string(texts("mlflow-database")["pg_service.conf"])
    assert services.sections() == ["mlflow", "mlflow_auth"]
    for each in services.sections():
        assert services[each]["dbname"] == each
        assert services[each]["password"] == texts("postgres")["mlflow_password"]


def test_no_two_secrets_are_alike() -> None:
    long = [
        text
        for name in ("airflow", "mlflow-server", "mlflow-admin", "postgres")
        for text in texts(name).values()
        if "://" not in text
    ]
    assert len(long) == len(set(long))
    assert min(map(len, long)) >= 16
