"""One MLflow run per Perennial run, with one nested run per step, found again by tag on every retry."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from tasks.recipe.failures import ConfigInvalid, PerennialError
from tasks.recipe.secrets import mask
from tasks.tracking.server import artifact_location, call, code_of

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PARAM_LENGTH = 6000
TAG_LENGTH = 8000
"""MLflow cuts longer values with no more than a log line; we cut them ourselves and say so in the value."""

NAMES_PER_BATCH = 100
POINTS_PER_BATCH = 1000
FILE_BYTES = 32 * 2**20
FILE_SUFFIXES = frozenset({".json", ".html", ".md", ".txt", ".yaml", ".png", ".svg"})
"""What may go to the tracking server: documents for people. Rows and weights stay in the store."""

SERVED = "mlflow-artifacts:/"
METRIC_NAME = re.compile(r"^[A-Za-z0-9_./-]{1,250}$")
ENDINGS = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True)
class RunFacts:
    """What the parent run says about a Perennial run.

    Attributes:
        model: Registered model; also the experiment's name.
        run: Run id, e.g. Airflow's.
        recipe: The recipe's name.
        plan: URI of the frozen plan.
        reason: Why the run was started, in words.
        tags: Further lineage (`perennial.` is put before each name), e.g. recipe_digest, intent, git_sha.
    """

    model: str
    run: str
    recipe: str
    plan: str
    reason: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepFacts:
    """What a step's run says before the step is done.

    Attributes:
        inputs: Port -> digests of the artefacts it reads.
    """

    step: str
    stage: str
    method: str
    fingerprint: str
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One point of a curve. Its time is fixed when it is made, so that sending it twice stores it once."""

    name: str
    value: float
    step: int = 0
    time_ms: int = field(default_factory=lambda: int(time.time() * 1000))


def open_parent(facts: RunFacts) -> str:
    """Find this run's parent run by its tag, or create it; reopened where an earlier attempt ended it.

    Returns:
        The MLflow run id.

    Raises:
        Infrastructure: MLflow is unreachable.
        ConfigInvalid: The experiment was deleted.
    """
    tags = {
        "perennial.run": facts.run,
        "perennial.recipe": facts.recipe,
        "perennial.plan": facts.plan,
        "perennial.reason": facts.reason,
        **{f"perennial.{name}": value for name, value in facts.tags.items()},
    }

    def act(client: MlflowClient) -> str:
        experiment = _experiment(client, facts.model)
        where = f"tags.`perennial.run` = {_quoted(facts.run)} and tags.`perennial.step` IS NULL"
        return _find_or_create(client, experiment, where, facts.run, tags)

    return call(f"open the run '{facts.run}' of '{facts.model}'", act)


def open_step(parent: str, facts: StepFacts) -> str:
    """Find a step's nested run by its tags and reopen it, or create it; log its options and inputs once.

    A retry with other options cannot change MLflow's parameters: the differences go to `attempt.N.*` tags.

    Returns:
        The MLflow run id.
    """
    tags = {
        "perennial.step": facts.step,
        "perennial.stage": facts.stage,
        "perennial.method": facts.method,
        "perennial.fingerprint": facts.fingerprint,
        "mlflow.parentRunId": parent,
        **_input_tags(facts.inputs),
    }

    def act(client: MlflowClient) -> str:
        above = client.get_run(parent)
        named = {**tags, "perennial.run": above.data.tags.get("perennial.run", "")}
        where = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`perennial.step` = {_quoted(facts.step)}"
        run = _find_or_create(client, above.info.experiment_id, where, facts.step, named)
        _log_params(client, client.get_run(run), flatten(facts.options))
        return run

    return call(f"open the run of step '{facts.step}'", act)


def log_metrics(run: str, points: Iterable[Point], *, skip_logged: bool = False) -> None:
    """Log points of curves in batches.

    Args:
        run: The MLflow run id.
        points: The points, finite.
        skip_logged: Leave out the steps that a curve already has (a retry that sends its curves again).

    Raises:
        PerennialError: A value is None, NaN or infinite, or a name has other characters than MLflow allows.
    """
    checked = [_checked(point) for point in points]

    def act(client: MlflowClient) -> None:
        from mlflow.entities import Metric

        wanted = checked
        if skip_logged:
            logged = {
                name: {known.step for known in client.get_metric_history(run, name)}
                for name in {point.name for point in checked}
            }
            wanted = [point for point in checked if point.step not in logged[point.name]]
        for batch in _batches(wanted, POINTS_PER_BATCH):
            metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in batch]
            client.log_batch(run, metrics=metrics)

    call("log metrics", act)


def log_figures(run: str, metrics: Mapping[str, float], *, figure: str = "") -> None:
    """Log a step's final figures, and its main figure in words as the tag `perennial.figure`."""
    log_metrics(run, [Point(name, value) for name, value in metrics.items()])
    if figure:
        set_tags(run, {"perennial.figure": figure})


def log_outputs(
    run: str,
    *,
    outputs: Mapping[str, str],
    cached: bool,
    reasons: Sequence[str],
    device_seconds: float | None = None,
    made_by: str = "",
) -> None:
    """Log what a step made, or which earlier result it was a hit on.

    Args:
        run: The MLflow run id of the step.
        outputs: Output name -> digest.
        cached: Nothing had to be done.
        reasons: Why it ran, or why it did not have to.
        device_seconds: Seconds of work over all attempts; None where this run did no work.
        made_by: The Perennial run that made the outputs, where it is another one.
    """
    tags = {f"perennial.output.{name}": digest for name, digest in outputs.items()}
    tags["perennial.cached"] = "true" if cached else "false"
    tags["perennial.reason"] = "; ".join(reasons)
    if made_by:
        tags["perennial.made_by"] = made_by
    set_tags(run, tags)
    if device_seconds is not None:
        log_metrics(run, [Point("device_seconds", device_seconds)])


def set_tags(run: str, tags: Mapping[str, str]) -> None:
    """Set tags in batches; values too long for MLflow are cut and say so."""
    call("set tags", lambda client: _set_tags(client, run, tags))


def log_file(run: str, path: Path, folder: str | None = None) -> None:
    """Log a small document.

    Raises:
        PerennialError: It is not a document, or too big: rows and weights never go to the tracking server.
        Infrastructure: MLflow or its artifact store is unreachable.
    """
    if not path.is_file():
        raise PerennialError(f"{path}: no such file to log")
    if path.suffix not in FILE_SUFFIXES:
        raise PerennialError(
            f"{path}: only documents ({', '.join(sorted(FILE_SUFFIXES))}) go to the tracking server; keep "
            f"rows and weights in the store and log their digest"
        )
    if path.stat().st_size > FILE_BYTES:
        raise PerennialError(
            f"{path}: {path.stat().st_size} bytes, and the limit is {FILE_BYTES}; log a summary"
        )

    def act(client: MlflowClient) -> None:
        where = str(client.get_run(run).info.artifact_uri)
        beside = artifact_location()
        if beside is None or not where.startswith(SERVED):
            client.log_artifact(run, str(path), folder)
            return
        # The laptop's server made the experiment, and now its database is used without it: the files of the
        # two lie in the same folder.
        target = Path(url2pathname(urlparse(beside).path)) / where.removeprefix(SERVED) / (folder or "")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)

    call(f"log '{path.name}'", act)


def exists(run: str) -> bool:
    """Whether a run is there and was not deleted."""

    def act(client: MlflowClient) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return str(client.get_run(run).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if code_of(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    return call("look for a run", act)


def end(run: str, status: str) -> None:
    """End a run as FINISHED, FAILED or KILLED."""
    if status not in ENDINGS:
        raise PerennialError(f"a run ends as {', '.join(ENDINGS)}, not as '{status}'")
    call("end the run", lambda client: client.set_terminated(run, status=status))


def flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Options as MLflow's parameters: nested keys joined by dots, every value in one fixed text form."""
    flat: dict[str, str] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return flat


def cut(value: str, limit: int) -> str:
    """The value with its secrets masked, or its beginning with a marker: how long it was, and its sha256."""
    value = mask(value)
    if len(value) <= limit:
        return value
    marker = f" ... [cut: {len(value)} characters, sha256 {sha256(value.encode()).hexdigest()}]"
    return value[: limit - len(marker)] + marker


def _experiment(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location()))
        except MlflowException as error:
            if code_of(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise ConfigInvalid(
            f"the MLflow experiment '{name}' was deleted; restore it (mlflow experiments restore) or give "
            f"the recipe another model name"
        )
    return str(found.experiment_id)


def _find_or_create(
    client: MlflowClient, experiment: str, where: str, name: str, tags: Mapping[str, str]
) -> str:
    """The run that `where` finds, made if there is none. Two makers at once agree on the older run."""
    given = {key: value for key, value in tags.items() if value}
    found = _search(client, experiment, where)
    if found:
        run = found[0]
        wanted = dict(given)
        if run.info.status != "RUNNING":
            attempt = int(run.data.tags.get("perennial.attempts", "1")) + 1
            wanted["perennial.attempts"] = str(attempt)
            client.update_run(run.info.run_id, status="RUNNING")
        known = run.data.tags
        changed = {key: value for key, value in wanted.items() if known.get(key) != cut(value, TAG_LENGTH)}
        _set_tags(client, run.info.run_id, changed)
        return str(run.info.run_id)
    made = client.create_run(
        experiment,
        tags={key: cut(value, TAG_LENGTH) for key, value in given.items()} | {"perennial.attempts": "1"},
        run_name=name,
    ).info.run_id
    chosen = str(_search(client, experiment, where)[0].info.run_id)
    if chosen != made:
        client.delete_run(made)
    return chosen


def _search(client: MlflowClient, experiment: str, where: str) -> list[Run]:
    found = client.search_runs([experiment], where, max_results=100)
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _log_params(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    wanted = {key: cut(value, PARAM_LENGTH) for key, value in params.items()}
    logged = run.data.params
    new = [Param(key, value) for key, value in wanted.items() if key not in logged]
    for batch in _batches(new, NAMES_PER_BATCH):
        client.log_batch(run.info.run_id, params=batch)
    attempt = run.data.tags.get("perennial.attempts", "1")
    changed = {
        f"attempt.{attempt}.{key}": value
        for key, value in wanted.items()
        if key in logged and logged[key] != value
    }
    _set_tags(client, run.info.run_id, changed)


def _set_tags(client: MlflowClient, run: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    every = [RunTag(key, cut(value, TAG_LENGTH)) for key, value in tags.items()]
    for batch in _batches(every, NAMES_PER_BATCH):
        client.log_batch(run, tags=batch)


def _input_tags(inputs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {
        f"perennial.input.{port}.{place}": digest
        for port, digests in inputs.items()
        for place, digest in enumerate(digests)
    }


def _checked(point: Point) -> Point:
    if not METRIC_NAME.match(point.name):
        raise PerennialError(
            f"metric '{point.name}': a name is letters, digits, '_', '.', '/' and '-' (for pass@1: pass_at_1)"
        )
    # None and text come from callers that mypy does not see: a value read back from JSON.
    if not isinstance(point.value, int | float) or not math.isfinite(point.value):
        raise PerennialError(
            f"metric '{point.name}' at step {point.step} is {point.value}; log finite figures only"
        )
    return point


def _batches(items: Sequence[Any], size: int) -> Iterable[list[Any]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def _quoted(value: str) -> str:
    """A value in MLflow's filter language, which knows no escapes."""
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise ConfigInvalid(f"the name {value!r} holds both kinds of quotes, which MLflow cannot search for")
