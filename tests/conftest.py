"""Fixtures for every stage's tests: a step context on local directories, and a tiny model."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.stage import Checkpoints, Input

os.environ.setdefault("OMP_NUM_THREADS", "1")

InputSpec = Any
"""An Input, or (kind, path), or (kind, path, meta)."""


class LocalCheckpoints:
    """The Checkpoints protocol on a directory: published by rename, pruned to the newest two."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def save(self, directory: Path, position: int, keep: Sequence[int] = ()) -> None:
        partial = self.root / f"{position:012d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(directory, partial)
        target = self.root / f"{position:012d}"
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        (self.root / "recording").write_text(str(max(position, self.recorded())))
        (self.root / "recording").rename(self.root / "recorded")  # whole or not at all, as in the store
        for old in self.complete()[: -1 if keep else -2]:
            if int(old.name) not in keep:
                shutil.rmtree(old)

    def complete(self) -> list[Path]:
        return sorted(path for path in self.root.iterdir() if path.is_dir() and path.name.isdigit())

    def newest(self) -> tuple[Path, int] | None:
        complete = self.complete()
        return (complete[-1], int(complete[-1].name)) if complete else None

    def recorded(self) -> int:
        file = self.root / "recorded"
        return int(file.read_text()) if file.exists() else 0


class FakeContext:
    """A StepContext for tests. `points`, `said` record the calls; `stop_after` steps `stopping()` is true."""

    def __init__(
        self,
        directory: Path,
        inputs: Mapping[str, Sequence[Input]],
        seed: int = 0,
        fresh: bool = False,
        step: str = "step",
    ) -> None:
        self.step = step
        self.seed = seed
        self.fresh = fresh
        self.directory = directory
        self.work = directory / "work"
        self.cache = directory / "cache"
        self.work.mkdir(parents=True, exist_ok=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.inputs: Mapping[str, list[Input]] = {port: list(given) for port, given in inputs.items()}
        self.checkpoints: Checkpoints = LocalCheckpoints(directory / "checkpoints")
        self.points: list[tuple[str, float, int]] = []
        self.said: list[tuple[float, str]] = []
        self.notes: list[str] = []
        self.kept: dict[str, Path] = {}
        self.stop_after: int | None = None
        self.asked = 0

    def output(self, name: str) -> Path:
        path = self.directory / "outputs" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def metric(self, name: str, value: float, step: int) -> None:
        self.points.append((name, value, step))

    def progress(self, done: float, figure: str = "") -> None:
        self.said.append((done, figure))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def recall(self, key: str) -> Path | None:
        return self.kept.get(key)

    def remember(self, key: str, path: Path) -> None:
        kept = self.directory / "kept" / key.replace("/", "-")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
        self.kept[key] = kept

    def stopping(self) -> bool:
        self.asked += 1
        return self.stop_after is not None and self.asked >= self.stop_after


def as_input(port: str, given: InputSpec) -> Input:
    """An Input from (kind, path) or (kind, path, meta); its reference is the path's last name."""
    if isinstance(given, Input):
        return given
    kind, path = given[0], given[1]
    meta = given[2] if len(given) == 3 else {}
    return Input(ref=f"{port}.{path.name}", digest=f"digest-of-{path.name}", kind=kind, path=path, meta=meta)


def new_context(
    directory: Path,
    inputs: Mapping[str, InputSpec] | None = None,
    **more: Any,
) -> FakeContext:
    """A FakeContext; an input is an `Input`, (kind, path) or (kind, path, meta), or a list of these."""
    given = {
        port: [as_input(port, each) for each in (value if isinstance(value, list) else [value])]
        for port, value in (inputs or {}).items()
    }
    return FakeContext(directory, given, **more)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was left out, and how to get it: each reason once, unless pytest lists skipped tests by itself."""
    left_out = terminalreporter.stats.get("skipped", [])
    if not left_out or terminalreporter.hasopt("skipped"):
        return
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in left_out)
    terminalreporter.section("left out, and how to get it")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count} {'test' if count == 1 else 'tests'}: {reason}")


LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher_for_children() -> Iterator[None]:
    """A training in this process leaves its rank and port in the environment; children must not take them."""
    yield
    for name in LAUNCHER:
        os.environ.pop(name, None)


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., FakeContext]:
    """Makes a context: `make_context({"model": ("model", path, meta)}, seed=0, fresh=False)`."""

    def make(
        inputs: Mapping[str, Any] | None = None, directory: Path | None = None, **more: Any
    ) -> FakeContext:
        return new_context(directory or tmp_path / "context", inputs, **more)

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes a dataset, `write_rows("news", [{"key": ..., "text": ...}])`, and returns its directory."""

    def write(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        directory = tmp_path / "data" / name
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "rows.jsonl").open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return directory

    return write


SENTENCE = (
    "the value of an object is returned when the function is called with a list of names and every key of the"
    " mapping is a string which may hold a number or another object if the iterator has more items to give"
)
WORDS = SENTENCE.split()


def tiny_texts(count: int, seed: int = 0, words: Sequence[str] = WORDS) -> list[str]:
    """English-like sentences with a structure that a tiny model can learn."""
    import random

    draw = random.Random(seed)
    return [
        " ".join(draw.choice(words) for _ in range(draw.randint(4, 40))).capitalize() + "."
        for _ in range(count)
    ]


def write_tiny_model(directory: Path, *, seed: int = 0, hidden: int = 32, layers: int = 2) -> Path:
    """A Llama of about 35,000 parameters with a 300-token byte-level BPE tokenizer and the chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.pretrain.tokenizer import train_tokenizer
    from tasks.training.models import save_model

    tokenizer = train_tokenizer(tiny_texts(50), vocab_size=300, max_length=256)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    save_model(model, tokenizer, directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model artefact, shared by the whole session: do not write into it."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny_model_like(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model of the same shape and tokenizer with other weights: `tiny_model_like(seed=1)`."""

    def make(seed: int) -> Path:
        return write_tiny_model(tmp_path / f"model-{seed}", seed=seed)

    return make
