#!/bin/sh
# Starts MLflow's server with authentication. Secrets are read from files here, so that no pod spec holds one.
# Reads: /etc/perennial/server/flask_secret_key (another folder: PERENNIAL_SERVER_SECRETS).
set -eu
secrets="${PERENNIAL_SERVER_SECRETS:-/etc/perennial/server}"
: "${MLFLOW_SERVER_ALLOWED_HOSTS:?name the hosts that clients use; without them MLflow allows every private address}"
: "${MLFLOW_AUTH_CONFIG_PATH:?path of basic_auth.ini}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?where the server keeps small files, as s3://bucket/mlflow}"
MLFLOW_FLASK_SERVER_SECRET_KEY="$(cat "$secrets/flask_secret_key")"
export MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false  # scorers and prompt jobs: not used here, and they need a writable disk
exec mlflow server --app-name basic-auth --host "${MLFLOW_HOST:-0.0.0.0}" --port "${MLFLOW_PORT:-5000}" \
  --workers "${MLFLOW_WORKERS:-2}"
