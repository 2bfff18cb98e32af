"""Airflow's REST API as a user sees it: log in, trigger a run, watch it, answer a question."""

from __future__ import annotations

import time
from typing import Any

import requests

from tasks.recipe.failures import Infrastructure

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 4


class AirflowApi:
    """A session of one user.

    Args:
        address: Of the web server, e.g. http://127.0.0.1:8080.
        user: Name.
        password: Password.
    """

    def __init__(self, address: str, user: str, password: str) -> None:
        self.address = address
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy must not come between us and this machine
        token = self._ask("POST", "/auth/token", {"username": user, "password": password})["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """A DAG, or None where Airflow does not know it (yet)."""
        found: dict[str, Any] = self._ask("GET", "/api/v2/dags", params={"dag_id_pattern": dag_id})
        return next((dag for dag in found["dags"] if dag["dag_id"] == dag_id), None)

    def import_errors(self) -> list[str]:
        """What Airflow says about files that give no DAG."""
        found = self._ask("GET", "/api/v2/importErrors")
        return [str(error["stack_trace"]) for error in found["import_errors"]]

    def set_paused(self, dag_id: str, paused: bool) -> None:
        """Pause or unpause a DAG."""
        self._ask("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": paused})

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run with the form filled in; its id."""
        body = {"logical_date": None, "conf": conf}
        return str(self._ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def active_runs(self, dag_id: str) -> list[str]:
        """Ids of the runs that have not ended, oldest first."""
        params = {"state": ["running", "queued"], "order_by": "id"}
        found = self._ask("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=params)
        return [str(run["dag_run_id"]) for run in found["dag_runs"]]

    def last_success(self, dag_id: str) -> str | None:
        """Id of the newest successful run, or None."""
        params = {"state": "success", "order_by": "-id", "limit": 1}
        found = self._ask("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=params)["dag_runs"]
        return str(found[0]["dag_run_id"]) if found else None

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """A run; `state` is queued, running, success or failed."""
        return self._ask("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """The run's task instances by task id."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        found = self._ask("GET", path, params={"limit": 200})
        return {str(task["task_id"]): task for task in found["task_instances"]}

    def question(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """What an approval asks: subject, body, options."""
        return self._ask("GET", self._question(dag_id, run_id, task_id))

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str, given: dict[str, Any]) -> None:
        """Answer an approval with one of its options and the values of its fields."""
        body = {"chosen_options": [option], "params_input": given}
        self._ask("PATCH", self._question(dag_id, run_id, task_id), body)

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int) -> list[str]:
        """The lines of a task's log."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        content = self._ask("GET", path, params={"full_content": "true"})["content"]
        return [str(line["event"]) if isinstance(line, dict) else str(line) for line in content]

    def stop_run(self, dag_id: str, run_id: str) -> None:
        """Mark a run as failed, which stops what it is doing."""
        self._ask("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})

    def make_pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool whose slots deferred tasks keep; one that exists stays as somebody set it."""
        if name not in {pool["name"] for pool in self._ask("GET", "/api/v2/pools")["pools"]}:
            body = {"name": name, "slots": slots, "description": description, "include_deferred": True}
            self._ask("POST", "/api/v2/pools", body)

    def _question(self, dag_id: str, run_id: str, task_id: str) -> str:
        return f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, params: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request; reading is tried again where the busy machine lets one time out.

        Raises:
            Infrastructure: Airflow is away or answered with an error, which is in the message.
        """
        attempts = ATTEMPTS if method == "GET" else 1
        for attempt in range(1, attempts + 1):
            try:
                answer = self._session.request(
                    method, self.address + path, json=body, params=params, timeout=TIMEOUT_SECONDS
                )
            except requests.RequestException as error:
                if attempt == attempts:
                    raise Infrastructure(f"Airflow at {self.address}: {method} {path}: {error}") from error
            else:
                if answer.status_code < 500 or attempt == attempts:
                    break
            time.sleep(attempt)
        if not answer.ok:
            raise Infrastructure(
                f"Airflow at {self.address}: {method} {path}: {answer.status_code} {answer.text[:500]}"
            )
        found: dict[str, Any] = answer.json()
        return found
