from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from typing import Any

import pytest

from tasks.artefacts import Store, open_store
from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.tracking import ledger
from tasks.tracking.ledger import Draft, Line, Standing


def draft(action: Any = "promote", to: str = "1", before: str | None = None, **more: Any) -> Draft:
    return Draft(
        action=action,
        actor="ada",
        from_version=before,
        to_version=to,
        to_digest=f"d{to}",
        reason="better",
        **more,
    )


def add(store: Store, given: Draft) -> Line:
    line = ledger.append(store, "pydocs", lambda lines: given)
    assert line is not None
    return line


def append_many(uri: str, who: str, count: int) -> None:
    store = open_store(uri)
    for place in range(count):
        given = draft("register", f"{who}{place}")
        ledger.append(store, "pydocs", lambda lines, given=given: given)  # type: ignore[misc]


def rewrite(store: Store, seq: int, changes: dict[str, Any]) -> None:
    path = store.local_path(f"ledger/pydocs/{seq:06d}.json")
    assert path is not None
    fields = json.loads(path.read_text()) | changes
    path.unlink()
    path.write_text(json.dumps(fields))


def test_lines_are_numbered_timed_and_chained(store: Store) -> None:
    first = add(store, draft())
    second = add(store, draft(to="2", before="1"))
    assert (first.seq, second.seq) == (1, 2)
    assert first.previous_hash == ledger.FIRST
    assert second.previous_hash == first.hash
    assert datetime.fromisoformat(second.time).tzinfo is not None
    assert ledger.history(store, "pydocs") == [first, second]
    assert ledger.history(store, "another") == []
    assert ledger.verify_chain(store, "pydocs", head=second.hash) == []


def test_nothing_to_say_appends_nothing(store: Store) -> None:
    assert ledger.append(store, "pydocs", lambda lines: None) is None
    assert ledger.history(store, "pydocs") == []


def test_threads_and_processes_never_share_a_number(store: Store) -> None:
    with ThreadPoolExecutor(4) as threads, ProcessPoolExecutor(2, get_context("spawn")) as processes:
        done = [threads.submit(append_many, store.uri, f"t{place}-", 5) for place in range(4)]
        done += [processes.submit(append_many, store.uri, f"p{place}-", 5) for place in range(2)]
        for each in done:
            each.result()
    lines = ledger.history(store, "pydocs")
    assert [line.seq for line in lines] == list(range(1, 31))
    assert len({line.to_version for line in lines}) == 30


def test_an_overtaken_writer_decides_again(store: Store) -> None:
    seen = []

    def make(lines: Any) -> Draft:
        seen.append(len(lines))
        if len(seen) == 1:
            add(store, draft("register", "7"))
        return draft(to="8", before=lines[-1].to_version if lines else None)

    line = ledger.append(store, "pydocs", make)
    assert seen == [0, 1]
    assert line is not None
    assert (line.seq, line.from_version) == (2, "7")


def test_a_clock_set_back_does_not_reorder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = add(store, draft())

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(days=1)

    monkeypatch.setattr(ledger, "datetime", Yesterday)
    assert add(store, draft(to="2")).time == first.time


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"actor": "mallory"}, "line 2 was altered"),
        ({"seq": 5}, "line 2 is missing"),
        ({"model": "other"}, "about model 'other'"),
        ({"time": 5}, "not a ledger line"),
    ],
)
def test_p10_tampering_is_detected(store: Store, change: dict[str, Any], told: str) -> None:
    for to in "123":
        add(store, draft(to=to))
    rewrite(store, 2, change)
    with pytest.raises(DataInvalid, match=told):
        ledger.history(store, "pydocs")
    with pytest.raises(DataInvalid):
        add(store, draft(to="4"))
    assert len(ledger.verify_chain(store, "pydocs")) == 1


def test_a_removed_line_is_detected(store: Store) -> None:
    for to in "123":
        add(store, draft(to=to))
    store.delete("ledger/pydocs/000002.json")
    with pytest.raises(DataInvalid, match="line 2 is missing"):
        ledger.history(store, "pydocs")


def test_a_line_forged_with_its_own_hash_breaks_the_chain(store: Store) -> None:
    lines = [add(store, draft(to=to)) for to in "123"]
    fields = lines[1].model_dump(exclude={"hash"}) | {"actor": "mallory"}
    rewrite(store, 2, {"actor": "mallory", "hash": ledger._hash(fields)})
    with pytest.raises(DataInvalid, match="line 3 does not follow line 2"):
        ledger.history(store, "pydocs")


def test_a_ledger_cut_off_at_the_end_is_detected_by_the_hash_in_mlflow(store: Store) -> None:
    add(store, draft())
    last = add(store, draft(to="2"))
    store.delete("ledger/pydocs/000002.json")
    assert ledger.verify_chain(store, "pydocs") == []
    assert "cut off or rewritten" in ledger.verify_chain(store, "pydocs", head=last.hash)[0]


def test_standing_follows_promotions_and_rollbacks(store: Store) -> None:
    for given in (
        draft("register", "1"),
        draft("promote", "1"),
        draft("reject", "2", "1"),
        draft("promote", "3", "1"),
        draft("rollback", "1", "3"),
    ):
        add(store, given)
    lines = ledger.history(store, "pydocs")
    stands = [ledger.standing(lines[: count + 1]) for count in range(5)]
    assert stands == [
        Standing(None, None),
        Standing("1", None),
        Standing("1", None),
        Standing("3", "1"),
        Standing("1", "3"),
    ]


def test_champion_at_a_moment_and_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [datetime(2026, 3, 1, 23, 0, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return clock[0]

    monkeypatch.setattr(ledger, "datetime", Clock)
    add(store, draft(to="1"))
    clock[0] = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    add(store, draft(to="2", before="1"))
    monkeypatch.undo()
    asked: dict[Any, str | None] = {
        "2026-02-28": None,
        "2026-03-01": "1",
        "2026-03-02": "2",
        "2026-03-02T11:59:59": "1",
        "2026-03-02T13:00:00+02:00": "1",
        "2026-03-02T12:00:00Z": "2",
        date(2026, 3, 1): "1",
        datetime(2026, 3, 2, 12, 30, tzinfo=UTC): "2",
    }
    assert {when: ledger.champion_at(store, "pydocs", when) for when in asked} == asked
    assert len(ledger.history(store, "pydocs", "2026-03-01")) == 1
    with pytest.raises(ConfigInvalid, match="is no date"):
        ledger.champion_at(store, "pydocs", "last week")
