"""What a running method sees: the runner's implementation of `tasks.stage.StepContext`."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.artefacts import Store
from tasks.artefacts.kept import recall, remember
from tasks.recipe.failures import Infrastructure
from tasks.runner.logbook import POINTS
from tasks.runner.ranks import outputs_folder, rank
from tasks.stage import Checkpoints, Input, Method

HEARTBEAT_SECONDS = 2.0


class Context:
    """One attempt at one step.

    Attributes:
        cooperative: The method has asked `stopping()` at least once, so it will stop by itself on SIGTERM.
    """

    def __init__(
        self,
        *,
        step: str,
        seed: int,
        work: Path,
        cache: Path,
        inputs: Mapping[str, list[Input]],
        checkpoints: Checkpoints,
        fresh: bool,
        method: Method,
        store: Store,
        progress_key: str,
        stop: threading.Event,
        say: Callable[[str], None],
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.step = step
        self.seed = seed
        self.work = work
        self.cache = cache
        self.inputs = inputs
        self.checkpoints = checkpoints
        self.fresh = fresh
        self.cooperative = False
        self._outputs = method.outputs
        self._store = store
        self._progress_key = progress_key
        self._stop = stop
        self._say = say
        self._over = over
        self._told = 0.0
        self._points_file = work / POINTS
        work.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        self._folder = work / outputs_folder()
        shutil.rmtree(self._folder, ignore_errors=True)

    def output(self, name: str) -> Path:
        """The directory that becomes output `name`."""
        if name not in self._outputs:
            raise KeyError(f"step '{self.step}' has no output '{name}'; it has {', '.join(self._outputs)}")
        directory = self._folder / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def metric(self, name: str, value: float, step: int) -> None:
        """Keep a point of a curve; it survives a kill and is logged once."""
        if rank() > 0:
            return
        with self._points_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, value, step, int(time.time() * 1000)]) + "\n")

    def progress(self, done: float, figure: str = "") -> None:
        """Publish how far the step is, every two seconds at most."""
        now = time.monotonic()
        if now - self._told < HEARTBEAT_SECONDS and done < 1.0:
            return
        self._told = now
        self._say(f"{done:6.1%} {figure}".rstrip())
        self._store.write(
            self._progress_key,
            json.dumps({"done": round(done, 4), "figure": figure}, sort_keys=True).encode(),
        )

    def note(self, text: str) -> None:
        """Say something once."""
        self._say(text)

    def stopping(self) -> bool:
        """True once SIGTERM came, or the run's budget is spent."""
        self.cooperative = True
        return self._stop.is_set() or self._over()

    def recall(self, key: str) -> Path | None:
        """What was kept under a key."""
        return recall(self._store, key, self.cache / "evaluations", self._say)

    def remember(self, key: str, path: Path) -> None:
        """Keep a file under a key."""
        remember(self._store, key, path)


def outputs_of(context: Context, method: Method, passed: Mapping[str, Input]) -> dict[str, Path]:
    """The filled output directories of a finished method.

    Raises:
        Infrastructure: A method left an output empty; that is our bug, told with the output's name.
    """
    filled: dict[str, Path] = {}
    for name in method.outputs:
        if name in passed:
            continue
        directory = context.work / "outputs" / name
        if not directory.is_dir() or not any(directory.iterdir()):
            raise Infrastructure(f"step '{context.step}' ended without writing its output '{name}'")
        filled[name] = directory
    return filled
