"""The pages about models inside Airflow: what they show is rendered here, with no script framework."""
