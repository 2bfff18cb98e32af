"""Promotions on PostgreSQL: at the same instant, and killed between any two writes.

Whatever was left undone, the next call completes, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks.artefacts import Store, commit, open_store
from tasks.release import signature
from tasks.release.audit import audit
from tasks.release.cards import keep
from tasks.release.promote import promote
from tasks.runner.release import decide
from tasks.runner.settings import settings
from tasks.tracking import ledger, registry
from tasks.tracking.runs import RunFacts, open_parent
from tasks.tracking.sources import source_of
from tests.faults.killed_promotion import FORK, KILLED, killed, raced
from tests.postgres import postgres

pytestmark = pytest.mark.slow

ROUNDS = 3


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where everything is: MLflow on PostgreSQL, the store and the key in folders."""
    home = tmp_path_factory.mktemp("home")
    with postgres("mlflow") as uri, pytest.MonkeyPatch.context() as patch:
        places = {
            "MLFLOW_TRACKING_URI": uri,
            "PERENNIAL_HOME": str(home),
            "PERENNIAL_STORE": f"file://{home}/store",
        }
        for name, value in places.items():
            patch.setenv(name, value)
        yield places


@pytest.fixture
def store(env: dict[str, str]) -> Store:
    return open_store(env["PERENNIAL_STORE"])


@pytest.fixture(scope="module")
def digests(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models in the store."""
    found = []
    for number in "123":
        folder = tmp_path_factory.mktemp("model")
        (folder / "weights").write_text(number)
        store = open_store(env["PERENNIAL_STORE"])
        found.append(commit(store, folder, kind="model", parents=[], producer="test", meta={}).digest)
    return found


@pytest.fixture
def make_model(store: Store, digests: list[str]) -> Callable[[str], str]:
    """Registers a model of three versions, of which the first is the champion and the last the candidate."""

    def make(name: str) -> str:
        run = open_parent(RunFacts(name, "run-1", "pydocs", "file:///plan.json"))
        for number, digest in enumerate(digests, start=1):
            tags = {
                "perennial.candidate": digest,
                "perennial.report": f"r{number}",
                "perennial.card": keep(store, f"# {number}"),
            }
            made = registry.register(name, source_of(store, digest), run, tags)
            signature.sign(store, made, "test")
            line = ledger.Draft(action="register", actor="test", to_version=made.version, to_digest=digest)
            ledger.append(store, name, lambda lines, line=line: line)  # type: ignore[misc]
        promote(store, name, "1", "ada", "the first")
        return name

    return make


def standing(store: Store, model: str) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """What must be the same after a kill as without one: aliases, decisions, what the versions' pages say."""
    return (
        registry.aliases(model),
        [
            f"{line.action} {line.from_version}->{line.to_version}"
            for line in ledger.history(store, model)[3:]
        ],
        {each.version: each.tags["perennial.decision"] for each in registry.versions(model)},
    )


def kill_after(env: dict[str, str], model: str, writes: int) -> tuple[int, list[str]]:
    """Promote the candidate and die after that many writes; the exit code and the writes."""
    queue = FORK.SimpleQueue()  # without a thread, which a killed process would take with it
    asked = {"model": model, "version": "candidate", "by": ["ada"], "reason": "better"}
    process = FORK.Process(target=killed, args=(env, writes, queue, asked))
    process.start()
    process.join(120)
    made = []
    while not queue.empty():
        made.append(queue.get())
    assert process.exitcode is not None
    return process.exitcode, made


def unsound(store: Store, model: str) -> set[str]:
    """The parts that an audit finds wrong, but for what these bare versions never had."""
    bare = ("recipe", "report", "parents", "run")
    return {each.part for each in audit(store, model).findings if each.part not in bare}


def test_a_kill_between_any_two_writes_is_completed_by_the_same_call(
    env: dict[str, str], store: Store, make_model: Callable[[str], str]
) -> None:
    code, writes = kill_after(env, make_model("whole"), 1000)
    assert code == 0
    wanted = standing(store, "whole")
    assert wanted[0] == {"champion": "3", "previous": "1"}
    # The ledger's line, two aliases that move and one that goes, the two notes on the version's page.
    assert writes[0] == "store ledger/whole/000005.json"
    assert sum(each.endswith("registered_model_aliases") for each in writes) == 3
    assert sum(each.endswith("model_version_tags") for each in writes) == 2
    for after in range(len(writes)):
        model = make_model(f"same-{after}")
        code, made = kill_after(env, model, after)
        assert (code, len(made)) == (KILLED, after)
        assert unsound(store, model) == ({"aliases"} if after else set()), writes[:after]
        words = decide(
            "promote", settings(), plan=None, model=model, version="candidate", by=["ada"], reason="better"
        ).words
        assert standing(store, model) == wanted, f"after {writes[:after]}"
        assert unsound(store, model) == set()
        assert ("an earlier call was cut short; completed: " in words) == (after > 0), words
        assert ("already on record" in words) == (after > 0), words


def test_a_kill_between_any_two_writes_is_repaired_by_another_decision(
    env: dict[str, str], store: Store, make_model: Callable[[str], str]
) -> None:
    _, writes = kill_after(env, make_model("counted"), 1000)
    for after in range(len(writes)):
        model = make_model(f"other-{after}")
        kill_after(env, model, after)
        words = decide(
            "promote", settings(), plan=None, model=model, version="2", by=["ben"], reason="better still"
        ).words
        before = "3" if after else "1"
        aliases, lines, pages = standing(store, model)
        assert aliases == {"champion": "2", "previous": before} | ({} if after else {"candidate": "3"})
        assert lines == ["promote None->1", *(["promote 1->3"] if after else []), f"promote {before}->2"]
        assert pages["3"] == ("promote by ada" if after else "register by test")
        assert pages["2"] == "promote by ben"
        assert unsound(store, model) == set()
        assert ("completed: " in words) == (after > 0), words


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_two_promotions_at_the_same_instant_leave_one_winner(
    env: dict[str, str], store: Store, make_model: Callable[[str], str], turn: int
) -> None:
    model = make_model(f"raced-{turn}")
    together, said = FORK.Barrier(2), FORK.Queue()
    asked: list[dict[str, Any]] = [
        {"model": model, "version": version, "by": [f"person {version}"], "reason": "better"}
        for version in ("2", "3")
    ]
    processes = [FORK.Process(target=raced, args=(env, together, said, each)) for each in asked]
    for process in processes:
        process.start()
    ended = sorted((said.get(timeout=120) for _ in asked), key=lambda end: int(end[1]))
    for process in processes:
        process.join(60)
    (winner, won, _), (loser, lost, words) = ended
    assert (won, lost) == (0, 2), ended
    assert f"version {loser} of '{model}' was to replace version 1, and now version {winner} is" in words
    assert f"(by person {winner}: better)" in words
    assert "decide again if that is still what you want" in words
    aliases, lines, _ = standing(store, model)
    assert aliases == {"champion": winner, "previous": "1"} | ({"candidate": "3"} if winner == "2" else {})
    assert lines == ["promote None->1", f"promote 1->{winner}"]
    assert unsound(store, model) == set()
