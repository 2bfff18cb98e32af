"""No DAG: the place where Airflow shows what is wrong with recipes.

Airflow's import errors belong to files, and all recipes become DAGs in one file. So the recipes that are in
order are built there (train.py), and the problems of the others are raised here, as `perennial check` tells
them, for the banner on Airflow's start page.
"""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException
from shared.recipes import folder, read

broken = read(folder()).problems
if broken:
    raise AirflowException(
        "these recipes have no DAG until they are corrected:\n" + "\n".join(broken.values())
    )
