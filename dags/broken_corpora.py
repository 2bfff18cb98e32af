"""No DAG: the place where Airflow shows what is wrong with corpora (see broken_recipes.py)."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException

from tasks.recipe.corpora import read_corpora

problems = read_corpora()[1]
if problems:
    raise AirflowException("these corpora have no DAG until they are corrected:\n" + "\n".join(problems))
