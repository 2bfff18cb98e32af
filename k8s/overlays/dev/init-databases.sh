#!/bin/sh
# Runs once, in an empty data directory (docker-entrypoint-initdb.d): a role and a database for each user of it.
set -eu
secrets="${POSTGRES_SECRETS:-/etc/perennial/postgres}"
psql --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  --set airflow="$(cat "$secrets/airflow_password")" --set mlflow="$(cat "$secrets/mlflow_password")" <<'SQL'
CREATE ROLE airflow LOGIN PASSWORD :'airflow';
CREATE DATABASE airflow OWNER airflow;
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE airflow, mlflow, mlflow_auth FROM PUBLIC;
SQL
