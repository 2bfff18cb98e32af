"""Makes MLflow's accounts from mounted secrets: the administrator, the one that runs and steps use, a reader.

Safe to repeat; a password that changed in the secret is changed in MLflow. People's accounts are made by the
administrator (README.md). Reads:

- MLFLOW_AUTH_CONFIG_PATH: basic_auth.ini, for the database and the administrator's name;
- MLFLOW_ADMIN_PASSWORD_FILE, default /etc/perennial/admin/password;
- MLFLOW_CLIENT_CREDENTIALS, default /etc/perennial/client/credentials: the file that clients mount as
  ~/.mlflow/credentials;
- MLFLOW_READER_CREDENTIALS, default /etc/perennial/reader/credentials: the same of the account with which
  Airflow's web server shows models; empty: there is none (docker/compose.yaml).
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path

from mlflow.server.auth.config import read_auth_config
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore


def main() -> int:
    """Make or correct the accounts; the exit code."""
    config = read_auth_config()
    if not config.admin_username:
        print("basic_auth.ini names no admin_username", file=sys.stderr)
        return 1
    password = Path(os.environ.get("MLFLOW_ADMIN_PASSWORD_FILE", "/etc/perennial/admin/password"))
    credentials = Path(os.environ.get("MLFLOW_CLIENT_CREDENTIALS", "/etc/perennial/client/credentials"))
    reader = os.environ.get("MLFLOW_READER_CREDENTIALS", "/etc/perennial/reader/credentials")
    accounts = [
        (config.admin_username, password.read_text(encoding="utf-8").strip(), True),
        (*login(credentials), False),
    ]
    if reader:
        accounts.append((*login(Path(reader)), False))
    store = SqlAlchemyStore()
    store.init_db(config.database_uri)
    for name, secret, admin in accounts:
        if not store.has_user(name):
            store.create_user(name, secret, is_admin=admin)
            print(f"account {name}: made")
        elif not store.authenticate_user(name, secret):
            store.update_user(name, password=secret)
            print(f"account {name}: password changed")
        else:
            print(f"account {name}: as it should be")
    return 0


def login(path: Path) -> tuple[str, str]:
    """Name and password of a file of credentials."""
    found = configparser.ConfigParser(interpolation=None)
    with path.open(encoding="utf-8") as file:
        found.read_file(file)
    return found["mlflow"]["mlflow_tracking_username"], found["mlflow"]["mlflow_tracking_password"]


if __name__ == "__main__":
    sys.exit(main())
