#!/bin/sh
# Brings the tracking database and the accounts' database to this MLflow's schema, then makes the accounts.
# Safe to repeat. Reads: MLFLOW_BACKEND_STORE_URI, MLFLOW_AUTH_CONFIG_PATH, PGSERVICEFILE, and what accounts.py reads.
set -eu
: "${MLFLOW_BACKEND_STORE_URI:?URI of the tracking database}"
mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
exec python "$(dirname "$0")/accounts.py"
