"""What a step keeps for others, through the context that the runner gives it."""

from __future__ import annotations

from pathlib import Path

from tasks.artefacts import open_store
from tasks.runner.context import Context
from tasks.stage import Method, Options, Port, Result

KEY = f"{'a' * 64}/{'b' * 64}"


def context_of(home: Path, store: Path, said: list[str]) -> Context:
    method = Method(
        summary="", options=Options, inputs={"text": Port(("documents",))}, outputs={"log": "documents"},
        run=lambda context, options: Result(figure=""),
    )  # fmt: skip
    return Context(
        step="s", seed=0, work=home / "work", cache=home / "cache", inputs={}, checkpoints=None,  # type: ignore[arg-type]
        fresh=False, method=method, store=open_store(f"file://{store}"), progress_key="p",
        stop=None, say=said.append,  # type: ignore[arg-type]
    )  # fmt: skip


def test_what_one_step_remembers_another_recalls(tmp_path: Path) -> None:
    said: list[str] = []
    one, other = (context_of(tmp_path / name, tmp_path / "store", said) for name in ("one", "other"))
    result = one.work / "columns.parquet"
    result.write_bytes(b"numbers")
    assert one.recall(KEY) is None
    one.remember(KEY, result)
    result.unlink()
    found = other.recall(KEY)
    assert found is not None
    assert found.read_bytes() == b"numbers"
    assert said == []
    found.chmod(0o644)
    found.write_bytes(b"forged!")
    assert other.recall(KEY) is None
    assert len(said) == 1
    assert "computed again" in said[0]
