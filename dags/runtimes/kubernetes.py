"""The kubernetes runtime: a step is a pod, started by the provider's operator and waited for by its trigger.

The pod is the template of the step's `resources` (k8s/pod_templates/) with a name, labels, the image, the
arguments and the settings. Whether the step is done is asked of the store, never of the pod. One name for all
pods of a step in a run: whoever comes second, a retry, a worker that was started again, finds the first one's
pod and waits for that (docs/decisions/0007-kubernetes-runtime.md).

Settings, from the environment of Airflow's workers, beside those of runtimes/steps.py:

- PERENNIAL_POD_TEMPLATES: the folder of the templates, default `k8s/pod_templates` of the repository.
- PERENNIAL_KUBERNETES_CONNECTION: an Airflow connection to the cluster, default none: the cluster that
  Airflow runs in, or the one that KUBECONFIG names.
- PERENNIAL_POLL_SECONDS: how often the trigger looks at a pod, default 5.

How long a pod may wait for a node and for its start is an annotation of its template.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yaml
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import V1DeleteOptions, V1EnvVar, V1Pod, V1Preconditions
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from runtimes import steps
from runtimes.failures import RETRIES_OF_PODS, RetryByClass, StepFailed
from runtimes.kubernetes_trigger import MaskedPodTrigger
from runtimes.log_lines import newer, seconds_since
from runtimes.masked_log import masked_log
from runtimes.pods import ATTEMPT, CONTAINER, READ, container_state, ended, labels, observe, pod_name
from runtimes.process import ROOT
from tasks.recipe.failures import ConfigInvalid, Failure, PerennialError
from tasks.recipe.secrets import mask

LOG_SECONDS = 10
"""How often the trigger brings the log: what a pod that vanishes has said until then is kept."""

COME_BACK_SECONDS = 10.0
"""How long to wait, without a worker, for a pod that is being deleted or for room in a quota."""

WATCHES = 3
"""How often a wait is taken up again, where the trigger could not see the pod ..."""

CALM_SECONDS = 600.0
"""... within this time; a wait that held for longer counts from the start."""

SCHEDULE, STARTUP = "perennial/schedule-seconds", "perennial/startup-seconds"
"""Annotations of a template."""


class KubernetesStepOperator(KubernetesPodOperator):
    """Runs a step as a pod; see the module's text.

    Args:
        step: The step.
        given: Arguments of every operator.
    """

    ui_color = "#e6f4ea"

    def __init__(self, *, step: steps.StepTask, **given: Any) -> None:
        super().__init__(
            kubernetes_conn_id=os.environ.get("PERENNIAL_KUBERNETES_CONNECTION") or None,
            deferrable=True,
            durable=True,
            do_xcom_push=False,
            random_name_suffix=False,
            base_container_name=CONTAINER,
            # What the kernel kills cannot write its last words: the kubelet then keeps the log's last lines.
            termination_message_policy="FallbackToLogsOnError",
            get_logs=True,
            logging_interval=LOG_SECONDS,
            poll_interval=poll_seconds(),
            startup_check_interval_seconds=math.ceil(poll_seconds()),  # the API takes whole seconds
            on_finish_action="delete_succeeded_pod",
            on_kill_action="delete_pod",
            retries=RETRIES_OF_PODS,
            retry_policy=RetryByClass(),
            **given,
        )
        self.step = step

    # ---- the provider calls these

    @property
    def log(self) -> Any:
        """Airflow's logger, masked."""
        return masked_log(self, super().log)

    def defer(
        self,
        *,
        trigger: Any,
        method_name: str,
        kwargs: dict[str, Any] | None = None,
        timeout: Any = None,
    ) -> NoReturn:
        """Wait, with what the provider's trigger logs masked."""
        if isinstance(trigger, KubernetesPodTrigger):
            trigger = MaskedPodTrigger(**trigger.serialize()[1])
        super().defer(trigger=trigger, method_name=method_name, kwargs=kwargs, timeout=timeout)

    def execute(self, context: Any) -> None:
        """Find the step's pod or create it, then wait for it without a worker."""
        self.come_back(context, None, time.time())

    def come_back(self, context: Any, event: Any, since: float) -> None:
        """`execute`, taken up again: an earlier pod had to go first, or the quota was full.

        Args:
            context: Airflow's.
            event: Of the timer; it says nothing.
            since: When the first try was, in seconds of Unix time.
        """
        with self._failures():
            self.step = self.step.filled_in(context)
            self._fill_in(context["run_id"])
            self._since = since
            super().execute(context)

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Any) -> V1Pod:
        """The pod that this task waits for: the living one of the step, or a new one.

        Raises:
            TaskDeferred: An earlier pod is being deleted, or there is no room in the quota.
        """
        self.pod = pod_request_obj  # on_kill deletes by name, also where the API's answer to create was lost
        name, namespace = pod_request_obj.metadata.name, pod_request_obj.metadata.namespace
        while True:
            pod = self._read(name, namespace)
            if pod is None:
                pod = self._create(pod_request_obj)
                if pod is None:
                    continue  # somebody was faster: theirs is found now
            elif pod.metadata.deletion_timestamp is not None:
                self._wait_outside(f"pod {name} of an earlier attempt is being deleted")
            elif (pod.metadata.labels or {}).get(READ) == "true":
                self._delete(pod)
                continue
            else:
                self.log.info("pod %s is there already (%s): waiting for it", name, pod.status.phase)
            self.trigger_kwargs = {
                "attempt": (pod.metadata.annotations or {}).get(ATTEMPT, ""),
                "watch": 1,
                "watched": time.time(),
            }
            return pod

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> None:
        """The trigger saw an end, or could not look: decide by the step's record in the store.

        Raises:
            StepFailed: The step is not done; with the class of its failure.
        """
        with self._failures():
            self._fill_in(context["run_id"])
            pod = self.pod = self._read(event["name"], event["namespace"])
            if pod is not None and not ended(pod):
                self._watch_again(context, pod, event)
            if pod is not None:
                self._copy_log(pod, event)
            seen = observe(pod, str(self.image), event.get("message", ""))
            try:
                steps.conclude(
                    self.step,
                    context["run_id"],
                    event["attempt"],
                    seen.failure,
                    seen.words,
                    killed_for_memory=seen.killed_for_memory,
                )
            except StepFailed as error:
                if pod is not None:
                    self._put_away(pod)
                if error.failure is Failure.PREEMPTED and seen.failure not in (None, Failure.PREEMPTED):
                    # The step knows that it was stopped; why, only the pod's status tells.
                    raise StepFailed(self.step.name, seen.failure, seen.words) from error
                raise
            if pod is not None:
                self._delete(pod)

    # ---- what the pod is made of

    def _fill_in(self, run_id: str) -> None:
        """Set the provider's arguments from the step and the settings of this worker."""
        template = template_of(self.step.resources)
        metadata = template["metadata"]
        attempt = uuid.uuid4().hex[:12]
        self.name = pod_name(self.step, run_id)
        self.namespace = metadata["namespace"]
        self.image = steps.image(self.step)
        self.arguments = self.step.arguments(run_id)
        given = environment(attempt) | {"PERENNIAL_IMAGE": self.image}
        self.env_vars = [V1EnvVar(name=name, value=value) for name, value in given.items()]
        self.labels = labels(self.step, run_id)
        self.annotations = {ATTEMPT: attempt}
        self.pod_template_dict = template
        self.termination_grace_period = template["spec"]["terminationGracePeriodSeconds"]
        self.schedule_timeout_seconds = int(metadata["annotations"][SCHEDULE])
        self.startup_timeout_seconds = int(metadata["annotations"][STARTUP])
        if self.kubernetes_conn_id is None:
            self.config_file = os.environ.get("KUBECONFIG") or None
            # The provider's operator would find this out by itself, its trigger would not.
            self.in_cluster = self.config_file is None and "KUBERNETES_SERVICE_HOST" in os.environ

    # ---- the API, with its retries

    @generic_api_retry  # type: ignore[untyped-decorator]
    def _read(self, name: str, namespace: str) -> V1Pod | None:
        try:
            return self.client.read_namespaced_pod(name=name, namespace=namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    @generic_api_retry  # type: ignore[untyped-decorator]
    def _create(self, pod: V1Pod) -> V1Pod | None:
        """Create the pod; None where there is one of that name, be it by a try whose answer was lost."""
        try:
            return self.client.create_namespaced_pod(namespace=pod.metadata.namespace, body=pod)
        except ApiException as error:
            if error.status == 409 and '"AlreadyExists"' in str(error.body):
                return None
            if error.status == 403 and "exceeded quota" in str(error.body):
                self._wait_outside(_message(error))
            raise

    @generic_api_retry  # type: ignore[untyped-decorator]
    def _delete(self, pod: V1Pod) -> None:
        """Delete this pod, not another of its name."""
        options = V1DeleteOptions(
            grace_period_seconds=self.termination_grace_period,
            preconditions=V1Preconditions(uid=pod.metadata.uid),
        )
        try:
            self.client.delete_namespaced_pod(
                name=pod.metadata.name, namespace=pod.metadata.namespace, body=options
            )
        except ApiException as error:
            if error.status == 409:  # another pod may have the name by now
                found = self._read(pod.metadata.name, pod.metadata.namespace)
                if found is None or found.metadata.uid != pod.metadata.uid:
                    return
            if error.status != 404:
                raise

    # ---- waiting

    def _wait_outside(self, reason: str) -> None:
        """Come back later, without holding a worker, as long as a pod may wait for a node."""
        if time.time() - self._since > self.schedule_timeout_seconds:
            raise StepFailed(self.step.name, Failure.INFRASTRUCTURE, f"no pod could be started: {reason}")
        self.log.info("%s: coming back in %.0f s", reason, COME_BACK_SECONDS)
        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=COME_BACK_SECONDS)),
            method_name="come_back",
            kwargs={"since": self._since},
        )

    def _watch_again(self, context: Any, pod: V1Pod, event: dict[str, Any]) -> None:
        """A pod that has not ended: wait on, unless it did not start in time or cannot start at all.

        Raises:
            TaskDeferred: The wait goes on.
            StepFailed: The trigger failed to see the pod too often; a retry finds the pod and waits again.
        """
        late = event["status"] == "timeout" and (
            # The task's own execution_timeout, or the pod's time to start; one that just started may run.
            "_execution_deadline" in event or pod.status.phase != "Running"
        )
        cannot_start = pod.status.phase == "Pending" and observe(pod, "").failure is Failure.CONFIG_INVALID
        if late or cannot_start:
            return
        calm = time.time() - event["watched"] > CALM_SECONDS
        watch = 1 if calm else event["watch"] + 1
        if watch > WATCHES and event["status"] == "error":
            raise StepFailed(
                self.step.name,
                Failure.INFRASTRUCTURE,
                f"pod {pod.metadata.name} runs, but Airflow's triggerer cannot see it: {event['message']}",
            )
        self.log.warning("pod %s has not ended, waiting on (%s)", pod.metadata.name, event.get("message"))
        self.trigger_kwargs = {"attempt": event["attempt"], "watch": watch, "watched": time.time()}
        self.invoke_defer_method(last_log_time=event.get("last_log_time"), context=context)

    # ---- the end

    def _copy_log(self, pod: V1Pod, event: dict[str, Any]) -> None:
        """The rest of the log, or the last lines that came with the pod's status."""
        state = container_state(pod)
        if state is None or state.terminated is None:
            return
        try:
            self._rest_of_log(pod, event.get("last_log_time") or "")
        except (HTTPError, ApiException) as error:
            self.log.warning("the log of pod %s cannot be read: %s", pod.metadata.name, error)
            for line in observe(pod, str(self.image)).tail:
                self.log.info("[%s] last lines: %s", CONTAINER, line)

    def _rest_of_log(self, pod: V1Pod, after: str) -> None:
        """Show the log after a moment ("": all of it); a stream that breaks is read on."""

        @generic_api_retry  # type: ignore[untyped-decorator]
        def read() -> None:
            nonlocal after
            answer = self.client.read_namespaced_pod_log(
                name=pod.metadata.name,
                namespace=pod.metadata.namespace,
                container=CONTAINER,
                timestamps=True,
                since_seconds=seconds_since(after),
                _preload_content=False,
            )
            lines = (line.decode("utf-8", "replace").rstrip("\n") for line in answer)
            for moment, words in newer(lines, after):
                self.log.info("[%s] %s", CONTAINER, words)
                after = moment

        read()

    def _put_away(self, pod: V1Pod) -> None:
        """A pod that failed stays for people to look at, marked as read; one that has not ended must go."""
        if not ended(pod):
            self._delete(pod)
            return
        body = {"metadata": {"labels": {READ: "true"}}}

        @generic_api_retry  # type: ignore[untyped-decorator]
        def mark() -> None:
            self.client.patch_namespaced_pod(
                name=pod.metadata.name, namespace=pod.metadata.namespace, body=body
            )

        try:
            mark()
        except ApiException as error:
            if error.status != 404:
                raise

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """What goes wrong between Airflow and the cluster, by class.

        `from None`: the errors before it would be shown with it, and are not masked.
        """
        try:
            yield
        except PerennialError as error:
            raise AirflowFailException(mask(str(error))) from None
        except ApiException as error:
            # What the API refuses as it stands is for whoever wrote the template or gave the rights.
            refused = error.status in (400, 403, 404, 422)
            failure = Failure.CONFIG_INVALID if refused else Failure.INFRASTRUCTURE
            words = f"the cluster's API answers {error.status}: {_message(error)}"
            raise StepFailed(self.step.name, failure, words) from None
        except HTTPError as error:
            words = f"the cluster's API does not answer: {error}"
            raise StepFailed(self.step.name, Failure.INFRASTRUCTURE, words) from None


def make(task: steps.StepTask) -> KubernetesStepOperator:
    """The Airflow task of a step."""
    return KubernetesStepOperator(step=task, **task.common)


def poll_seconds() -> float:
    """How often the trigger looks at a pod.

    Raises:
        ConfigInvalid: The setting is not a number of seconds above 0.
    """
    given = os.environ.get("PERENNIAL_POLL_SECONDS") or "5"
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigInvalid(f"PERENNIAL_POLL_SECONDS is '{given}'; give a number of seconds above 0")
    return seconds


def template_of(resources: str) -> dict[str, Any]:
    """The pod template of a size.

    Raises:
        ConfigInvalid: There is none, or it lacks what the runtime reads of it.
    """
    folder = Path(os.environ.get("PERENNIAL_POD_TEMPLATES") or ROOT / "k8s" / "pod_templates")
    path = folder / f"{resources}.yaml"
    if not path.is_file():
        raise ConfigInvalid(
            f"{path}: there is no pod template for steps of the size '{resources}'; set "
            "PERENNIAL_POD_TEMPLATES for Airflow's workers to a folder with cpu.yaml, gpu.yaml and large.yaml"
        )
    template: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for keys in (
        ("metadata", "namespace"),
        ("metadata", "annotations", SCHEDULE),
        ("metadata", "annotations", STARTUP),
        ("spec", "terminationGracePeriodSeconds"),
    ):
        at: Any = template
        for key in keys:
            at = at.get(key) if isinstance(at, dict) else None
        if at is None:
            raise ConfigInvalid(f"{path}: {'.'.join(keys)} is missing; the shipped templates have it")
    return template


def environment(attempt: str) -> dict[str, str]:
    """The settings of a pod: addresses, no secrets.

    Raises:
        ConfigInvalid: An address holds a password: whoever may read pods could read it.
    """
    given = steps.settings()
    for name, value in given.items():
        if urlsplit(value).password:
            raise ConfigInvalid(
                f"{name} holds a password, which would stand in the pod for all to read; give the address "
                "alone and mount the credentials (k8s/pod_templates/)"
            )
    return given | {"PERENNIAL_ATTEMPT": attempt}


def _message(error: ApiException) -> str:
    """Kubernetes' own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
