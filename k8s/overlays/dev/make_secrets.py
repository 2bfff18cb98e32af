"""Prints random secrets for the dev overlay as Kubernetes objects; nothing is written to disk.

    python k8s/overlays/dev/make_secrets.py | kubectl create -f -

`create`, not `apply`: a second run must not change the passwords of a database that is already there. For a
private registry give the file that `docker login` wrote: --registry ~/.docker/config.json
"""

from __future__ import annotations

import argparse
import base64
import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

POSTGRES = "postgres.perennial.svc.cluster.local"

ED25519 = bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7)."""


def values(registry: str) -> Mapping[tuple[str, str], Mapping[str, str]]:
    """Namespace and name of each secret -> its keys and their texts."""
    airflow, mlflow, client, reader = (secrets.token_urlsafe(24) for _ in range(4))
    key_id, key = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
    services = [
        f"[{name}]\nhost={POSTGRES}\nport=5432\ndbname={name}\nuser=mlflow\npassword={mlflow}\n"
        for name in ("mlflow", "mlflow_auth")
    ]
    s3 = f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {key}\n"
    both = {
        "perennial-mlflow": {"credentials": login("perennial", client)},
        "perennial-store": {"credentials": s3},
        "registry": {".dockerconfigjson": registry},
    }
    control = {
        "airflow": {
            "sql_alchemy_conn": f"postgresql+psycopg2://airflow:{airflow}@{POSTGRES}:5432/airflow",
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "jwt_secret": secrets.token_urlsafe(48),
            "api_secret_key": secrets.token_urlsafe(48),
            "passwords.json": json.dumps({"admin": secrets.token_urlsafe(16)}),
        },
        "mlflow-database": {"pg_service.conf": "\n".join(services)},
        "perennial-mlflow-reader": {"credentials": login("perennial-reader", reader)},
        "perennial-signing": {"key.pem": signing_key()},
        "mlflow-server": {"flask_secret_key": secrets.token_urlsafe(48)},
        "mlflow-admin": {"password": secrets.token_urlsafe(24)},
        "postgres": {
            "postgres_password": secrets.token_urlsafe(24),
            "airflow_password": airflow,
            "mlflow_password": mlflow,
        },
        "s3-server": {"root.env": f"ROOT_ACCESS_KEY={key_id}\nROOT_SECRET_KEY={key}\n"},
    }
    return {
        **{("perennial", name): keys for name, keys in (both | control).items()},
        **{("perennial-steps", name): keys for name, keys in both.items()},
    }


def login(name: str, password: str) -> str:
    """An account of MLflow as its clients read it, ~/.mlflow/credentials."""
    return f"[mlflow]\nmlflow_tracking_username = {name}\nmlflow_tracking_password = {password}\n"


def signing_key() -> str:
    """A new key to sign releases with, in PEM, as `openssl genpkey -algorithm ed25519` makes it."""
    text = base64.b64encode(ED25519 + secrets.token_bytes(32)).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"


def main(arguments: list[str]) -> int:
    """Print the secrets; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--registry", type=Path, help="a config.json with the login of your registry")
    given = parser.parse_args(arguments)
    registry = given.registry.read_text(encoding="utf-8") if given.registry else json.dumps({"auths": {}})
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "kubernetes.io/dockerconfigjson" if name == "registry" else "Opaque",
            "stringData": dict(keys),
        }
        for (namespace, name), keys in values(registry).items()
    ]
    print(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
