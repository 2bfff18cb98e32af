"""Airflow and MLflow on one PostgreSQL: people decide at the same instant in Airflow, with the real commands.

Two questions of the DAG `promote` about two versions of a model are answered at once by two people, through
Airflow's API; then one about another, while somebody else rolls back. The versions are whole: `perennial
audit` has nothing to say of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from tasks.artefacts import Store, open_store
from tasks.local import services
from tasks.local.airflow_api import AirflowApi
from tasks.local.places import AIRFLOW_DATABASE, MLFLOW_DATABASE, ROOT, Places, environment
from tasks.release.promote import promote
from tasks.runner.settings import settings
from tasks.tracking import ledger, registry
from tests import warm
from tests.browser.ui import eventually, is_asked
from tests.postgres import postgres
from tests.unit.release import conftest as releases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PEOPLE = ("admin", "ben")
TOGETHER = """#!/bin/sh
# Decisions wait for one another while the folder `gate` is there, so that they really begin together.
cd {gate} 2>/dev/null && case "$1" in promote|rollback)
    touch "$$"
    for turn in $(seq 6000); do [ "$(ls | wc -l)" -ge 2 ] && break; sleep 0.02; done
    [ "$(ls | wc -l)" -ge 2 ] || {{ echo "the other decision did not come within 120 s" >&2; exit 70; }} ;;
esac
cd {root} && exec {python} -m tasks.cli "$@"
"""
"""The command of this Airflow: two tasks start seconds apart, and a promotion takes less."""

make_run = releases.make_run


@dataclass(frozen=True)
class Desk:
    """Airflow and MLflow as they were started, and a session of each person."""

    places: Places
    people: dict[str, AirflowApi]
    database: str
    gate: Path

    def perennial(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tasks.cli", *arguments],
            cwd=ROOT, env=environment(self.places), capture_output=True, text=True, check=False,
        )  # fmt: skip

    def asks(self, asked: Mapping[str, str], model: str) -> dict[str, str]:
        """Ask for promotions as the model's page does; the run for each version, once all questions are open.

        Args:
            asked: Version -> who asks.
            model: The registered model.
        """
        runs = {
            version: self.people[person].trigger("promote", {"model": model, "version": version})
            for version, person in asked.items()
        }
        api = self.people[PEOPLE[0]]
        for version, run in runs.items():
            asked_about = f"the question about version {version}"
            eventually(lambda run=run: is_asked(api, self.places, "promote", run), asked_about)  # type: ignore[misc]
        return runs

    @contextmanager
    def together(self) -> Iterator[None]:
        """Two decisions of Airflow in here wait for one another before they begin."""
        self.gate.mkdir()
        yield
        assert len(list(self.gate.iterdir())) == 2, "not two decisions came"
        shutil.rmtree(self.gate)

    def ended(self, dag: str, run: str) -> dict[str, Any]:
        """The last task of a run that has ended: what became of the command."""
        api = self.people[PEOPLE[0]]
        eventually(lambda: api.run(dag, run)["state"] in ("success", "failed"), f"{dag} {run} ends")
        task = api.tasks(dag, run)[dag]
        log = api.log(dag, run, dag, int(task["try_number"]))
        return {**task, "log": "\n".join(log)}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The services of `perennial up` on a PostgreSQL, with two people who may decide."""
    folder = tmp_path_factory.mktemp("postgres")
    (folder / "recipes").mkdir()
    with postgres("airflow", "mlflow") as uri, pytest.MonkeyPatch.context() as patch:
        patch.setenv(AIRFLOW_DATABASE, uri)
        patch.setenv(MLFLOW_DATABASE, uri.replace("/airflow", "/mlflow"))
        patch.setenv("PERENNIAL_HOME", str(folder / "home"))
        patch.setenv("PERENNIAL_STORE", f"file://{folder}/store")
        patch.setenv("PERENNIAL_RECIPES", str(folder / "recipes"))
        patch.setenv("PERENNIAL_USERS", ",".join(f"{person}:admin" for person in PEOPLE))
        together = folder / "perennial"
        together.write_text(TOGETHER.format(gate=folder / "gate", root=ROOT, python=warm.python()))
        together.chmod(0o755)
        patch.setenv("PERENNIAL_COMMAND", str(together))
        places, _ = services.start(settings())
        try:
            passwords = json.loads((places.airflow_home / "passwords.json").read_text())
            people = {name: AirflowApi(places.airflow, name, passwords[name]) for name in PEOPLE}
            patch.setenv("MLFLOW_TRACKING_URI", places.mlflow)
            for dag in ("promote", "rollback"):
                eventually(lambda dag=dag: people["admin"].dag(dag), f"Airflow lists {dag}")  # type: ignore[misc]
                people["admin"].set_paused(dag, False)
            yield Desk(places, people, uri, folder / "gate")
        finally:
            services.stop(places.home)


@pytest.fixture
def store(desk: Desk) -> Store:
    return open_store(desk.places.store)


@pytest.fixture
def three(make_run: Callable[..., Any], store: Store) -> Callable[[str], str]:
    """Makes a model of three versions: the first is the champion, and the others were judged against it."""

    def make(model: str) -> str:
        for number in "123":
            run = make_run(f"{model}-{number}", weights=f"{model} {number}", intent=f"{model} {number}")
            run.plan["model"] = model
            run.register()
            if number == "1":
                promote(store, model, "1", "ada", "the first")
        return model

    return make


def at_once(acts: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do all of it at the same instant; what each gave."""
    together, given = threading.Barrier(len(acts)), dict[int, Any]()

    def act(number: int) -> None:
        together.wait(60)
        given[number] = acts[number]()

    threads = [threading.Thread(target=act, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(given) == len(acts), "an answer was refused"
    return [given[number] for number in range(len(acts))]


def decisions(store: Store, model: str) -> list[str]:
    return [
        f"{line.action} {line.from_version}->{line.to_version} by {line.actor}: {line.reason}"
        for line in ledger.history(store, model)
        if line.action in ledger.MOVES
    ]


def accounted_for(desk: Desk, model: str) -> str:
    """What `perennial audit` says where it has nothing to say."""
    done = desk.perennial("audit", model)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_both_databases_are_on_postgresql(desk: Desk) -> None:
    for database, table in (("airflow", "dag_run"), ("mlflow", "registered_models")):
        engine = sqlalchemy.create_engine(desk.database.replace("/airflow", f"/{database}"))
        assert table in sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
    assert not list(Path(desk.places.home).rglob("*.db"))


def test_two_promotions_at_the_same_instant_leave_one_winner(
    desk: Desk, store: Store, three: Callable[[str], str]
) -> None:
    model, who = three("raced"), dict(zip("23", PEOPLE, strict=True))
    asked = desk.asks(who, model)
    with desk.together():
        at_once(
            [
                lambda person=person, version=version: desk.people[person].answer(  # type: ignore[misc]
                    "promote",
                    asked[version],
                    "approve",
                    "Approve",
                    {"reason": f"version {version} is better"},
                )
                for version, person in who.items()
            ]
        )
        ended = {version: desk.ended("promote", run) for version, run in asked.items()}
    by_state = {str(task["state"]): version for version, task in ended.items()}
    assert set(by_state) == {"success", "failed"}, {key: task["log"] for key, task in ended.items()}
    winner, loser = by_state["success"], by_state["failed"]
    assert decisions(store, model) == [
        "promote None->1 by ada: the first",
        f"promote 1->{winner} by {who[winner]}: version {winner} is better",
    ]
    aliases = {"champion": winner, "previous": "1"} | ({"candidate": "3"} if winner == "2" else {})
    assert registry.aliases(model) == aliases
    # The loser is told who came before and what to do, and its decision was not tried again.
    log = ended[loser]["log"]
    assert f"it was judged when version 1 was in production, and now version {winner} is" in log
    assert f"version {winner} (promote by {who[winner]} on" in log
    assert f"to replace it all the same: --over {winner}" in log
    assert ended[loser]["try_number"] == 1
    assert "3 of 3 versions are accounted for, 5 lines in the ledger" in accounted_for(desk, model)


def test_a_promotion_and_a_rollback_at_the_same_instant(
    desk: Desk, store: Store, three: Callable[[str], str], make_run: Callable[..., Any]
) -> None:
    model = three("both")
    promote(store, model, "2", "ada", "the second")
    run = make_run("both-4", weights="both 4", intent="both 4")
    run.plan["model"] = model
    run.register()
    asked = desk.asks({"candidate": "admin"}, model)["candidate"]
    later = make_run("both-5", weights="both 5", intent="both 5")
    later.plan["model"] = model
    later.register()  # what was asked about is promoted, not what the alias names by now
    with desk.together():
        _, back = at_once(
            [
                lambda: desk.people["admin"].answer(
                    "promote", asked, "approve", "Approve", {"reason": "better"}
                ),
                lambda: desk.people["ben"].trigger("rollback", {"model": model, "reason": "wrong dates"}),
            ]
        )
        ended = [desk.ended("promote", asked), desk.ended("rollback", back)]
    made = decisions(store, model)[2:]
    logs = [task["log"] for task in ended]
    assert f"$ perennial promote --model={model} --version=4 --by=admin --reason=better" in logs[0]
    # Each command that ended well has its line and no other has; the champion is who the last line says.
    assert len(made) == sum(task["state"] == "success" for task in ended) >= 1, logs
    lines = ledger.history(store, model)
    now = ledger.standing(lines)
    aliases = registry.aliases(model)
    assert (aliases["champion"], aliases["previous"]) == (now.champion, now.previous)
    assert made in (
        ["rollback 2->1 by ben: wrong dates"],
        ["promote 2->4 by admin: better"],
        ["promote 2->4 by admin: better", "rollback 4->2 by ben: wrong dates"],
    )
    assert "5 of 5 versions are accounted for" in accounted_for(desk, model)
