"""Waits until the tracking database has this MLflow's schema, which the upgrade job brings it to.

A server that starts before the upgrade would make the tables itself, beside another one that does the same.
Reads MLFLOW_BACKEND_STORE_URI. Exits with 1 after SCHEMA_WAIT_SECONDS (default 300), and says what to do.
"""

from __future__ import annotations

import os
import sys
import time

import sqlalchemy
from mlflow.store.db.utils import _get_latest_schema_revision, _get_schema_version

PAUSE_SECONDS = 2.0


def main() -> int:
    """Poll until the schema fits; the exit code."""
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    until = time.monotonic() + float(os.environ.get("SCHEMA_WAIT_SECONDS", "300"))
    wanted = _get_latest_schema_revision()
    said = ""
    while True:
        try:
            found = _get_schema_version(sqlalchemy.create_engine(uri))
            now = f"the database's schema is {found}, this image needs {wanted}"
        except sqlalchemy.exc.OperationalError as error:
            found, now = None, f"no answer from the database: {str(error.orig).strip().splitlines()[0]}"
        if found == wanted:
            print(f"schema {wanted}: ready", flush=True)
            return 0
        if now != said:
            print(f"waiting: {now}", flush=True)
            said = now
        if time.monotonic() > until:
            print(
                f"{now}. Run the job mlflow-upgrade with this image; where the schema is newer than the "
                "image, deploy the newer image again or restore the backup",
                file=sys.stderr,
            )
            return 1
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
