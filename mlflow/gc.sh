#!/bin/sh
# Removes for good what was deleted in MLflow more than 30 days ago (GC_OLDER_THAN says otherwise, as 7d or 12h).
# Goes to the database for rows and through the server for small files, with the credentials in ~/.mlflow/credentials.
set -eu
: "${MLFLOW_BACKEND_STORE_URI:?URI of the tracking database}"
: "${MLFLOW_TRACKING_URI:?address of the server, which removes the files}"
exec mlflow gc --backend-store-uri "$MLFLOW_BACKEND_STORE_URI" --older-than "${GC_OLDER_THAN:-30d}"
