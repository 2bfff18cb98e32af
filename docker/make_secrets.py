"""`make_secrets.py FOLDER`: makes every secret of the compose file that is not there yet.

A folder of FOLDER is a volume, which only those services mount that need what is in it. A second run changes
nothing, so that databases and accounts keep the passwords they were made with.
"""

import base64
import json
import os
import secrets
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OWNERS = {
    "airflow": 10001,
    "login": 10001,
    "mlflow": 10001,
    "postgres": 999,
    "s3": 10001,
    "s3-data": 10001,
    "signing": 10001,
    "steps": 10001,
}
"""Volume -> the user of the services that mount it."""


def main(place: Path) -> None:
    """Make what is missing, or nothing where the first run came to its end."""
    done = place / "airflow" / "made"
    if not done.exists():
        for name, text in texts().items():
            write(place / name, text)
        for folder, owner in OWNERS.items():
            for path in (place / folder, *(place / folder).rglob("*")):
                os.chown(path, owner, owner)
        (place / "airflow" / "made").touch()


def texts() -> dict[str, str]:
    """Every file and what is in it."""
    made = {
        name: secrets.token_urlsafe(32)
        for name in ("postgres", "airflow", "mlflow", "s3", "account", "admin", "web")
    }
    access = f"perennial{secrets.token_hex(5)}"
    aws = f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {made['s3']}\n"
    account = (
        f"[mlflow]\nmlflow_tracking_username = perennial\nmlflow_tracking_password = {made['account']}\n"
    )
    auth = (
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"admin_password = {made['admin']}\n"
        "database_uri = postgresql+psycopg2://mlflow@postgres:5432/mlflow\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    key = Ed25519PrivateKey.generate()  # signs releases
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return {
        "signing/signing.pem": private.decode(),
        "signing/trusted.pem": public.decode(),
        "signing/webhook": secrets.token_urlsafe(32),
        "airflow/pgpass": f"postgres:5432:airflow:airflow:{made['airflow']}\n",
        "airflow/aws-credentials": aws,
        "airflow/mlflow/credentials": account,
        "login/passwords.json": json.dumps({"admin": made["web"]}),
        "airflow/api-secret-key": secrets.token_urlsafe(48),
        "airflow/jwt-secret": secrets.token_urlsafe(48),
        "airflow/fernet-key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "mlflow/pgpass": f"postgres:5432:mlflow:mlflow:{made['mlflow']}\n",
        "mlflow/aws-credentials": aws,
        "mlflow/auth.ini": auth,
        "mlflow/admin-password": made["admin"],
        "mlflow/client/credentials": account,
        "mlflow/flask-secret-key": secrets.token_urlsafe(48),
        "postgres/postgres": made["postgres"],
        "postgres/airflow": made["airflow"],
        "postgres/mlflow": made["mlflow"],
        "s3/root.env": f"ROOT_ACCESS_KEY={access}\nROOT_SECRET_KEY={made['s3']}\n",
        "steps/aws-credentials": aws,
        "steps/mlflow/credentials": account,
    }


def write(path: Path, text: str) -> None:
    """Write a file that only its owner may read, from the first byte on."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
