"""The container runtime: each step is a container of this machine's Docker or Podman.

The worker talks to the daemon through its socket (DOCKER_HOST, default the usual one; Podman's service speaks
the same protocol). The settings PERENNIAL_CONTAINER_* are in container_request.py.

The life of a container does not depend on the worker's. Its name says which step of which run it is, so a
retry, or a worker that was started again, finds the container of the attempt before: it follows one that
lives and concludes one that has ended, and never starts a second. Cancelling sends SIGTERM, and SIGKILL after
PERENNIAL_GRACE_SECONDS; the daemon sees that through when the worker is gone before.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import docker
import requests
from airflow.sdk import BaseOperator
from docker.errors import APIError, DockerException, NotFound
from docker.utils import parse_repository_tag

from runtimes import container_request as request
from runtimes.container_request import Seen
from runtimes.failures import RETRIES_OF_PODS, RetryByClass, StepFailed
from runtimes.masked_log import masked_log
from runtimes.steps import StepTask, conclude
from tasks.recipe.failures import ConfigInvalid, Failure, Infrastructure, PerennialError

NOT_STARTED = ("created", "initialized")
"""States of a container whose worker died between making and starting it."""

ENDED = ("exited", "dead", "stopped")

ON_KILL_SECONDS = 3.0
"""Airflow kills a worker five seconds after it asked it to stop."""

LOOK_SECONDS = 1.0

PASSING = ("timeout", "timed out", "toomanyrequests", "429", "502", "503", "504", "connection reset")
"""Words of a registry's trouble that passes; anything else is about the reference."""

MISFIT = (
    "executable file",
    "no such file or directory",
    "permission denied",
    "could not select device driver",
)
"""Words of a daemon that cannot start this image on this machine, whatever status it says them with."""


class ContainerOperator(BaseOperator):
    """Runs a step in a container and waits for its end.

    Args:
        step: The step.
    """

    ui_color = "#e6f4ea"

    def __init__(self, *, step: StepTask, **given: Any) -> None:
        super().__init__(do_xcom_push=False, retries=RETRIES_OF_PODS, retry_policy=RetryByClass(), **given)
        self.step = step
        self._run_id = ""

    @property
    def log(self) -> Any:
        """Airflow's logger, masked."""
        return masked_log(self, super().log)

    def execute(self, context: Any) -> None:
        """Start the step's container, or take up the one there is, and wait for its end.

        Raises:
            StepFailed: The step is not done; with the class of its failure.
        """
        self._run_id = context["run_id"]
        with self._classified():
            self.step = self.step.filled_in(context)
            given = request.arguments(self.step, self._run_id, secrets.token_hex(8))
            with connected() as daemon:
                container = self._take_up_or_start(daemon, given)
                found = self._follow(container)
                try:
                    self._conclude(container.labels["perennial.attempt"], found)
                finally:
                    remove(container)

    def on_kill(self) -> None:
        """Ask for a checkpoint and an end; the daemon sees it through even when this process is killed."""
        if self._run_id:
            name, grace = request.container_name(self.step, self._run_id), request.grace_seconds()
            self.log.info("stopping %s: SIGTERM, %d s for a checkpoint, then SIGKILL", name, grace)
            stopping = threading.Thread(target=stop, args=(name, grace), daemon=True)
            stopping.start()
            stopping.join(ON_KILL_SECONDS)

    def _take_up_or_start(self, daemon: Any, given: dict[str, Any]) -> Any:
        """The container of this step: the one that an attempt before left, or a new one."""
        container = find(daemon, given["name"])
        if container is not None:
            self.log.info("taking up the container %s, which is %s", given["name"], container.status)
        else:
            if not on_this_machine(daemon, given["image"]):
                self.log.info("pulling %s", given["image"])
                pull(daemon, given["image"])
            self.log.info("starting %s: perennial %s", given["image"], " ".join(given["command"]))
            container = create(daemon, given)
        if container.status in NOT_STARTED:
            start(container, given["image"])
        return container

    def _follow(self, container: Any) -> Seen:
        """Log what the container prints until it has ended; a stream that is cut is taken up again."""
        last, ended = "", False
        while True:
            try:
                for stamp, line in lines(container, last):
                    self.log.info("%s", line)
                    last = stamp
                if ended:
                    return request.seen(container.attrs["State"], container.attrs["Config"]["Image"])
                container.reload()
                ended = container.status in ENDED  # then once more: the stream may have been cut before
            except NotFound:
                return Seen(Failure.PREEMPTED, "somebody removed the container")
            except (requests.RequestException, DockerException) as error:
                self.log.warning("the container's log was cut (%s); following it again", error)
            if not ended:
                time.sleep(LOOK_SECONDS)

    def _conclude(self, attempt: str, found: Seen) -> None:
        conclude(self.step, self._run_id, attempt, found.failure, found.words, found.killed_for_memory)

    @contextlib.contextmanager
    def _classified(self) -> Iterator[None]:
        """Give every error its class, which decides whether the task is tried again.

        `from None`: the errors before it would be shown with it, and are not masked.
        """
        try:
            yield
        except PerennialError as error:
            raise StepFailed(self.step.name, error.failure, str(error)) from None
        except (DockerException, requests.RequestException) as error:
            words = f"Docker or Podman does not do what it was asked: {error}"
            raise StepFailed(self.step.name, Failure.INFRASTRUCTURE, words) from None


def make(task: StepTask) -> ContainerOperator:
    """The Airflow task of a step."""
    return ContainerOperator(step=task, **task.common)


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """A connection to the daemon.

    Raises:
        Infrastructure: It does not answer.
    """
    try:
        daemon = docker.from_env(timeout=60)
    except DockerException as error:
        raise Infrastructure(
            f"Docker or Podman does not answer: {error}; start it, and give Airflow's workers its socket "
            "(DOCKER_HOST)"
        ) from error
    try:
        yield daemon
    finally:
        daemon.close()


def find(daemon: Any, name: str) -> Any | None:
    """The container of that name, in whatever state it is."""
    try:
        return daemon.containers.get(name)
    except NotFound:
        return None


def on_this_machine(daemon: Any, reference: str) -> bool:
    """Whether the daemon has the image."""
    try:
        daemon.images.get(reference)
    except NotFound:
        return False
    return True


def pull(daemon: Any, reference: str) -> None:
    """Fetch an image.

    Raises:
        ConfigInvalid: There is no such image, or we may not have it.
        Infrastructure: The registry has a trouble that passes.
    """
    repository, tag = parse_repository_tag(reference)
    problem = ""
    try:
        for told in daemon.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
            problem = told.get("error", problem)
    except APIError as error:
        problem = str(error.explanation or error)
    if problem and any(word in problem.lower() for word in PASSING):
        raise Infrastructure(f"the image {reference} could not be pulled: {problem}")
    if problem:
        raise ConfigInvalid(
            f"the image {reference} is not on this machine and cannot be pulled: {problem}; build it (`make "
            "images`), or correct PERENNIAL_IMAGE_CPU or PERENNIAL_IMAGE_TRAINER"
        )


def create(daemon: Any, given: dict[str, Any]) -> Any:
    """Make the container; where another worker made it in the same moment, that one is given.

    Raises:
        ConfigInvalid: The daemon refuses what the settings ask for, such as a network that is not there.
    """
    try:
        return daemon.containers.create(**given)
    except APIError as error:
        # Docker says 409 to a name that is taken, Podman 500: look instead of believing the number.
        there = find(daemon, given["name"])
        if there is None:
            raise refusal(error, f"no container of {given['image']} can be made") from error
        return there


def start(container: Any, reference: str) -> None:
    """Start a container; one that cannot be started is removed.

    Raises:
        ConfigInvalid: It cannot run on this machine as it is.
        Infrastructure: It could not be started this time.
    """
    try:
        container.start()
    except APIError as error:
        remove(container)
        raise refusal(error, f"the container of {reference} cannot be started") from error
    container.reload()


def refusal(error: Any, what: str) -> PerennialError:
    """The class of what the daemon refused: asked for wrongly, or a trouble of the machine."""
    words = str(error.explanation or error)
    wrong = error.is_client_error() or any(word in words.lower() for word in MISFIT)
    return (ConfigInvalid if wrong else Infrastructure)(f"{what}: {words}")


def stop(name: str, grace: int) -> None:
    """SIGTERM, SIGKILL after the grace; then remove it, since nobody is left who would conclude it."""
    with connected() as daemon, contextlib.suppress(NotFound):
        container = daemon.containers.get(name)
        container.stop(timeout=grace)
        remove(container)


def remove(container: Any) -> None:
    """Remove a container that has ended; somebody else may be doing so, which the daemon calls a conflict."""
    with contextlib.suppress(APIError):
        container.remove(force=True)


def lines(container: Any, last: str = "") -> Iterator[tuple[str, str]]:
    """What a container prints, line by line, each with its time, beginning after the time `last`.

    The daemon sends pieces of any length; a line may be cut into two of them.
    """
    since = {"since": int(datetime.fromisoformat(last).timestamp())} if last else {}
    rest = b""
    for piece in container.logs(stream=True, follow=True, timestamps=True, **since):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            stamp, _, words = line.decode("utf-8", "replace").partition(" ")
            if stamp > last:
                yield stamp, words.rstrip()
    if rest:
        stamp, _, words = rest.decode("utf-8", "replace").partition(" ")
        if stamp > last:
            yield stamp, words.rstrip()
