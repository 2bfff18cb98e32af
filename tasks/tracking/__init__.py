"""MLflow: runs with their lineage, the model registry, and the ledger of promotions.

Which server is meant comes from MLFLOW_TRACKING_URI, as with MLflow itself. MLflow takes seconds to import,
so nothing here imports it before the first call.
"""
