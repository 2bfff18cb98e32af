"""The laptop: MLflow and Airflow as processes of this machine, and the demo that drives them."""
