"""Airflow puts the folders of DAGs and plugins on the path; so do these tests, with a home of their own."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "dags"))
sys.path.append(str(ROOT / "dags" / "plugins"))
# Airflow reads these when it is first imported, which is before any fixture runs.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="perennial-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "False")
