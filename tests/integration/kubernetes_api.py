"""A Kubernetes API double: the real HTTP protocol, no cluster.

It keeps any object of any group, version and plural (core v1 too) with uids and resource versions. It answers
create, get, list, replace, patch, delete, delete of a collection, watch and a pod's log as an API server
does: 409 for a name that is taken or a resource version that is old, 410 for a watch from a version that is
forgotten, 404 for what is gone, 422 for names and labels that are not valid, chunked streams for `watch` and
`follow`.

    with KubernetesApi() as api:
        api.script(scheduled(), running("step 1"), Wait(), exited(0))   # the life of the next pod
        api.fail(429, times=2, path="/pods$", method="POST", retry_after=1)
        os.environ["KUBECONFIG"] = str(api.kubeconfig(tmp_path))

A life is a list of moments; each changes the object `pause` seconds after the one before. At `Wait()` it
stands still until `go_on(name)`. A custom object (a TrainJob) gets a life by `script(...,
plural="trainjobs")` and moments of its own: any function of (api, object). Moments of pods: below.
"""

from __future__ import annotations

import copy
import datetime
import json
import re
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
Kind = tuple[str, str, str]
"""Group ("" for core), version, plural."""

PODS: Kind = ("", "v1", "pods")
EVENTS: Kind = ("", "v1", "events")

_PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?$"
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class Answer(Exception):
    """An answer that is not 200: the Status object of Kubernetes."""

    def __init__(self, code: int, reason: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.retry_after = code, reason, message, retry_after

    @property
    def body(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


@dataclass
class Fault:
    """What goes wrong with the next requests that match; see `KubernetesApi.fail` and `KubernetesApi.cut`."""

    times: int
    method: str
    path: str
    status: int = 0
    reason: str = ""
    message: str = ""
    retry_after: int | None = None
    late: bool = False
    cut_after: int | None = None
    watch: bool | None = None


@dataclass
class Request:
    """A request as it came, for tests to look at."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    at: float


@dataclass(frozen=True)
class Wait:
    """The life stands still here until `go_on(name)`."""


Moment = Callable[["KubernetesApi", Object], None]
Life = Sequence[Moment | Wait]


@dataclass
class _Living:
    kind: Kind
    namespace: str
    name: str
    uid: str
    left: list[Moment | Wait]
    due: float


@dataclass
class _Pod:
    """What a kubelet knows of a pod."""

    log: list[tuple[str, str]] = field(default_factory=list)
    on_term: Life = ()


class KubernetesApi:
    """The double. Use it as a context manager, or `start()` and `stop()`.

    Attributes:
        pause: Seconds between the moments of a life.
        requests: Every request so far.
        missing: Groups that are not installed (`trainer.kubeflow.org`): their paths answer 404.
        default: The life of a pod that no `script` was given for.
    """

    def __init__(self, pause: float = 0.05) -> None:
        self.pause = pause
        self.requests: list[Request] = []
        self.missing: set[str] = set()
        self.default: Life = [scheduled(), running("hello"), exited(0)]
        self.lock = threading.Condition(threading.RLock())
        self._objects: dict[tuple[Kind, str, str], Object] = {}
        self._history: list[tuple[int, str, Kind, Object]] = []
        self._version = 1000
        self._oldest = 0
        self._faults: list[Fault] = []
        self._scripts: dict[str, list[tuple[Life, Life]]] = defaultdict(list)
        self._living: list[_Living] = []
        self._pods: dict[str, _Pod] = {}
        self._stopped = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._threads: list[threading.Thread] = []

    # ---- set up and take down

    def start(self) -> KubernetesApi:
        """Listen on a free port of this machine."""
        api = self

        class Handler(_Handler):
            double = api

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True),
            threading.Thread(target=self._live, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and end the lives."""
        assert self._server is not None
        self._stopped.set()
        with self.lock:
            self.lock.notify_all()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(timeout=5)

    def __enter__(self) -> KubernetesApi:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, folder: Path, namespace: str = "perennial") -> Path:
        """Write a kubeconfig for this server (JSON, which is YAML)."""
        path = folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": "double", "user": {"token": "not-a-secret"}}],
            "contexts": [
                {
                    "name": "double",
                    "context": {"cluster": "double", "user": "double", "namespace": namespace},
                }
            ],
        }
        path.write_text(json.dumps(config))
        return path

    # ---- what a test says

    def script(self, *moments: Moment | Wait, on_term: Life | None = None, plural: str = "pods") -> None:
        """The life of the next object of this plural; scripts queue up.

        Args:
            moments: What happens to it.
            on_term: What a running pod does when it is deleted with a grace period, before it is gone: by
                default it ends with 143. Give [Wait(), ...] to hold it in Terminating.
            plural: The kind of object.
        """
        self._scripts[plural].append((moments, (exited(143),) if on_term is None else on_term))

    def fail(
        self,
        status: int,
        *,
        times: int = 1,
        method: str = "",
        path: str = "",
        reason: str = "",
        message: str = "",
        retry_after: int | None = None,
        late: bool = False,
        watch: bool | None = None,
    ) -> None:
        """Answer the next matching requests with an error.

        Args:
            status: 409, 410, 429, 500 ..., or 0 to close the connection without an answer.
            times: How many requests.
            method: Of these only (empty: all).
            path: A regular expression that the path holds.
            reason: Kubernetes' word, by default that of the status.
            message: For people.
            retry_after: Seconds, as a header.
            late: The request takes effect first; only its answer is lost.
            watch: Watches only (True), or everything but watches (False).
        """
        fault = Fault(times, method, path, status, reason, message, retry_after, late, watch=watch)
        self._faults.append(fault)

    def cut(self, after: int, *, times: int = 1, path: str = "") -> None:
        """Break the next matching stream (watch or followed log) in the middle, after so many lines."""
        self._faults.append(Fault(times, "GET", path, cut_after=after))

    def go_on(self, name: str) -> None:
        """Let the object of this name live on from its `Wait()`; it must come to one within five seconds."""
        until = time.monotonic() + 5
        with self.lock:
            while time.monotonic() < until:
                for each in self._living:
                    if each.name == name and each.left and isinstance(each.left[0], Wait):
                        each.left.pop(0)
                        each.due = time.monotonic()
                        self.lock.notify_all()
                        return
                self.lock.wait(0.05)
        raise AssertionError(f"'{name}' does not stand at a Wait()")

    def forget_history(self) -> None:
        """A watch from any version before now is answered with 410."""
        with self.lock:
            self._oldest = self._version
            self._history.clear()

    # ---- the objects, for tests and moments

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """A copy of an object, or None."""
        with self.lock:
            found = self._objects.get((kind, namespace, name))
            return copy.deepcopy(found)

    def all(self, kind: Kind = PODS) -> list[Object]:
        """Copies of all objects of a kind."""
        with self.lock:
            return [copy.deepcopy(each) for key, each in self._objects.items() if key[0] == kind]

    def create(self, kind: Kind, namespace: str, given: Object) -> Object:
        """Create an object as POST does."""
        with self.lock:
            made = copy.deepcopy(given)
            metadata = made.setdefault("metadata", {})
            if "name" not in metadata and "generateName" in metadata:
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            _check(metadata)
            name = metadata["name"]
            if (kind, namespace, name) in self._objects:
                raise Answer(409, "AlreadyExists", f'{kind[2]} "{name}" already exists')
            metadata.update(
                namespace=namespace, uid=str(uuid.uuid4()), creationTimestamp=_now(), generation=1
            )
            if kind == PODS:
                made["status"] = {"phase": "Pending", "conditions": []}
                self._pods[metadata["uid"]] = _Pod()
            self._objects[(kind, namespace, name)] = made
            self._changed("ADDED", kind, made)
            self._begin(kind, made)
            return copy.deepcopy(made)

    def save(self, kind: Kind, changed: Object) -> None:
        """Write an object back (a moment's way to change one): a new version, seen by watches."""
        with self.lock:
            metadata = changed["metadata"]
            key = (kind, metadata["namespace"], metadata["name"])
            if key not in self._objects:
                return
            if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and kind != PODS:
                self.remove(kind, changed)
                return
            self._objects[key] = changed
            self._changed("MODIFIED", kind, changed)

    def remove(self, kind: Kind, gone: Object) -> None:
        """Take an object out of the store, at once."""
        with self.lock:
            metadata = gone["metadata"]
            self._objects.pop((kind, metadata["namespace"], metadata["name"]), None)
            self._living = [each for each in self._living if each.uid != metadata["uid"]]
            self._changed("DELETED", kind, gone)

    def delete(self, kind: Kind, namespace: str, name: str, options: Object) -> Object:
        """Delete as DELETE does: a pod that runs gets its grace period first, finalizers hold an object."""
        with self.lock:
            found = self._found(kind, namespace, name)
            wanted = (options.get("preconditions") or {}).get("uid")
            if wanted and wanted != found["metadata"]["uid"]:
                raise Answer(409, "Conflict", f"the UID in the precondition ({wanted}) does not match")
            metadata = found["metadata"]
            if kind == PODS:
                grace = options.get("gracePeriodSeconds")
                if grace is None:
                    grace = found["spec"].get("terminationGracePeriodSeconds", 30)
                running = found["status"]["phase"] == "Running"
                if grace == 0 or not running:
                    self.remove(kind, found)
                elif "deletionTimestamp" not in metadata:
                    metadata.update(deletionTimestamp=_now(grace), deletionGracePeriodSeconds=grace)
                    self.save(kind, found)
                    self._terminate(found)
            elif metadata.get("finalizers"):
                metadata["deletionTimestamp"] = _now()
                self.save(kind, found)
            else:
                self.remove(kind, found)
            return copy.deepcopy(found)

    def event(self, about: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """An Event about an object, as the scheduler and the kubelet write them."""
        metadata = about["metadata"]
        made = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}.".lower()},
            "involvedObject": {
                "kind": about.get("kind", "Pod"),
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "fieldPath": "spec.containers{base}",
            },
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "count": 1,
            "firstTimestamp": _now(),
            "lastTimestamp": _now(),
            "source": {"component": "kubelet"},
        }
        self.create(EVENTS, metadata["namespace"], made)

    def log(self, pod: Object, *lines: str) -> None:
        """Lines that the container prints."""
        with self.lock:
            self._pods[pod["metadata"]["uid"]].log += [(_now(micro=True), line) for line in lines]
            self.lock.notify_all()

    # ---- time

    def _begin(self, kind: Kind, made: Object) -> None:
        queue = self._scripts[kind[2]]
        if queue:
            life, on_term = queue.pop(0)
        elif kind == PODS:
            life, on_term = self.default, (exited(143),)
        else:
            return
        metadata = made["metadata"]
        if kind == PODS:
            self._pods[metadata["uid"]].on_term = on_term
        due = time.monotonic() + self.pause
        self._living.append(
            _Living(kind, metadata["namespace"], metadata["name"], metadata["uid"], list(life), due)
        )

    def _terminate(self, pod: Object) -> None:
        """The kubelet's part of a deletion: SIGTERM, what the pod does about it, then it is gone."""
        metadata = pod["metadata"]
        uid = metadata["uid"]
        self._living = [each for each in self._living if each.uid != uid]
        life = [*self._pods[uid].on_term, vanished()]
        due = time.monotonic() + self.pause
        self._living.append(_Living(PODS, metadata["namespace"], metadata["name"], uid, life, due))

    def _live(self) -> None:
        while not self._stopped.wait(min(0.01, self.pause)):
            with self.lock:
                for each in list(self._living):
                    if not each.left or isinstance(each.left[0], Wait) or time.monotonic() < each.due:
                        continue
                    found = self._objects.get((each.kind, each.namespace, each.name))
                    if found is None or found["metadata"]["uid"] != each.uid:
                        self._living.remove(each)
                        continue
                    moment = each.left.pop(0)
                    assert not isinstance(moment, Wait)
                    moment(self, found)
                    each.due = time.monotonic() + self.pause

    # ---- the store's insides

    def _found(self, kind: Kind, namespace: str, name: str) -> Object:
        found = self._objects.get((kind, namespace, name))
        if found is None:
            raise Answer(404, "NotFound", f'{kind[2]} "{name}" not found')
        return found

    def _changed(self, what: str, kind: Kind, changed: Object) -> None:
        self._version += 1
        changed["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, what, kind, copy.deepcopy(changed)))
        self.lock.notify_all()

    def _fault(self, method: str, path: str, watch: bool, stream: bool) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.method not in ("", method) or not re.search(fault.path, path):
                    continue
                if (fault.watch is not None and fault.watch != watch) or (
                    fault.cut_after is not None and not stream
                ):
                    continue
                fault.times -= 1
                if fault.times == 0:
                    self._faults.remove(fault)
                return fault
        return None


# ---- moments of a pod's life


def scheduled(node: str = "node-1") -> Moment:
    """A node is found; its kubelet makes the container."""

    def act(api: KubernetesApi, pod: Object) -> None:
        pod["spec"]["nodeName"] = node
        _condition(pod, "PodScheduled", "True")
        pod["status"]["startTime"] = _now()
        _container(pod, {"waiting": {"reason": "ContainerCreating"}})
        api.save(PODS, pod)

    return act


def unschedulable(message: str = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.") -> Moment:
    """No node fits."""

    def act(api: KubernetesApi, pod: Object) -> None:
        _condition(pod, "PodScheduled", "False", "Unschedulable", message)
        api.save(PODS, pod)
        api.event(pod, "FailedScheduling", message, warning=True)

    return act


def waiting(reason: str, message: str = "") -> Moment:
    """The container cannot start (ErrImagePull, ImagePullBackOff, CreateContainerConfigError ...)."""

    def act(api: KubernetesApi, pod: Object) -> None:
        _container(pod, {"waiting": {"reason": reason, "message": message}})
        api.save(PODS, pod)
        api.event(pod, "Failed", message or reason, warning=True)

    return act


def running(*lines: str) -> Moment:
    """The container runs and prints."""

    def act(api: KubernetesApi, pod: Object) -> None:
        pod["status"]["phase"] = "Running"
        _container(pod, {"running": {"startedAt": _now()}})
        api.save(PODS, pod)
        api.log(pod, *lines)

    return act


def says(*lines: str) -> Moment:
    """The container prints."""
    return lambda api, pod: api.log(pod, *lines)


def exited(code: int, *, reason: str = "", message: str = "") -> Moment:
    """The container ends: with 0 the pod has succeeded, otherwise it has failed.

    Args:
        code: The exit code.
        reason: Kubernetes' word, by default Completed or Error; OOMKilled comes with 137.
        message: What it wrote to its termination file.
    """

    def act(api: KubernetesApi, pod: Object) -> None:
        pod["status"]["phase"] = "Failed" if code else "Succeeded"
        ended: Object = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "startedAt": _now(),
            "finishedAt": _now(),
        }
        if message:
            ended["message"] = message
        _container(pod, {"terminated": ended})
        api.save(PODS, pod)

    return act


def evicted(message: str = "The node was low on resource: ephemeral-storage.") -> Moment:
    """The kubelet puts the pod out: phase Failed with the reason Evicted and, as since 1.26, a condition."""

    def act(api: KubernetesApi, pod: Object) -> None:
        pod["status"].update(phase="Failed", reason="Evicted", message=message)
        _condition(pod, "DisruptionTarget", "True", "TerminationByKubelet", message)
        pod["status"].pop("containerStatuses", None)
        api.save(PODS, pod)

    return act


def disrupted(reason: str = "PreemptionByScheduler", message: str = "a pod of higher priority") -> Moment:
    """The pod is chosen to go; what ends it comes after. Other reasons: EvictionByEvictionAPI,
    DeletionByTaintManager, DeletionByPodGC, TerminationByKubelet.
    """

    def act(api: KubernetesApi, pod: Object) -> None:
        _condition(pod, "DisruptionTarget", "True", reason, message)
        api.save(PODS, pod)

    return act


def vanished() -> Moment:
    """The pod is gone: removed after a deletion, garbage collected, or lost with its node."""
    return lambda api, pod: api.remove(PODS, pod)


def _condition(pod: Object, kind: str, status: str, reason: str = "", message: str = "") -> None:
    conditions = [each for each in pod["status"].get("conditions", []) if each["type"] != kind]
    made: Object = {"type": kind, "status": status, "lastTransitionTime": _now()}
    if reason:
        made.update(reason=reason, message=message)
    pod["status"]["conditions"] = [*conditions, made]


def _container(pod: Object, state: Object) -> None:
    first = pod["spec"]["containers"][0]
    pod["status"]["containerStatuses"] = [
        {
            "name": first["name"],
            "image": first.get("image", ""),
            "imageID": "",
            "ready": "running" in state,
            "restartCount": 0,
            "state": state,
            "lastState": {},
        }
    ]


# ---- checks and selectors


def _check(metadata: Object) -> None:
    problems = []
    name = metadata.get("name", "")
    if len(name) > 253 or not _NAME.fullmatch(name):
        problems.append(f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain is required')
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key) or not isinstance(value, str) or not _LABEL.fullmatch(value):
            problems.append(f'metadata.labels: Invalid value: "{key}={value}"')
    if problems:
        raise Answer(422, "Invalid", f'"{name}" is invalid: {", ".join(problems)}')


def _selected(found: Object, query: Mapping[str, str]) -> bool:
    labels = found["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        if "!=" in term:
            key, _, value = term.partition("!=")
            good = labels.get(key.strip()) != value.strip()
        elif "=" in term:
            key, _, value = term.replace("==", "=").partition("=")
            good = labels.get(key.strip()) == value.strip()
        elif term.startswith("!"):
            good = term[1:].strip() not in labels
        else:
            good = term.strip() in labels
        if not good:
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.replace("==", "=").partition("=")
        at: Any = found
        for part in path.rstrip("!").split("."):
            at = (at or {}).get(part)
        if ((at or "") == value) == path.endswith("!"):
            return False
    return True


def _merge(into: Object, given: Object) -> Object:
    """RFC 7386. Kubernetes' strategic merge is the same for maps; lists of a pod's status are not merged."""
    for key, value in given.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            into[key] = _merge(dict(into.get(key) or {}), value)
        else:
            into[key] = value
    return into


def _json_patch(into: Object, operations: Sequence[Object]) -> Object:
    """RFC 6902: add, replace, remove and test, in maps and lists."""
    for each in operations:
        *above, last = [
            part.replace("~1", "/").replace("~0", "~") for part in each["path"].lstrip("/").split("/")
        ]
        at: Any = into
        for part in above:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        where: Any = last if isinstance(at, dict) else (len(at) if last == "-" else int(last))
        if each["op"] == "remove":
            del at[where]
        elif each["op"] == "test":
            if at[where] != each["value"]:
                raise Answer(422, "Invalid", f"the test of {each['path']} failed")
        elif isinstance(at, list) and each["op"] == "add":
            at.insert(where, each["value"])
        else:
            at[where] = each["value"]
    return into


def _now(later: float = 0, *, micro: bool = False) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=later)
    return moment.isoformat(timespec="microseconds" if micro else "seconds").replace("+00:00", "Z")


# ---- HTTP

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


class _Cut(Exception):
    """The connection breaks here."""


class _Handler(BaseHTTPRequestHandler):
    double: KubernetesApi
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _handle(self) -> None:
        split = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else {}
        api = self.double
        with api.lock:
            api.requests.append(Request(self.command, split.path, query, body, time.monotonic()))
        watch, follow = query.get("watch") in ("true", "True"), query.get("follow") in ("true", "True")
        fault = api._fault(self.command, split.path, watch, watch or follow)
        try:
            self._answer(split.path, query, body, fault)
        except Answer as answer:
            self._send(answer.code, answer.body, answer.retry_after)
        except (_Cut, BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, path: str, query: Mapping[str, str], body: Any, fault: Fault | None) -> None:
        if fault is not None and fault.cut_after is None and not fault.late:
            self._fail(fault)
        parts = _PATH.match(path)
        if parts is None or (parts["group"] or "") in self.double.missing:
            raise Answer(404, "NotFound", "the server could not find the requested resource")
        kind = (parts["group"] or "", parts["version"], parts["plural"])
        cut = fault.cut_after if fault else None
        if parts["sub"] == "log":
            self._log(parts["namespace"], parts["name"], query, cut)
            return
        if query.get("watch") in ("true", "True"):
            self._watch(kind, parts["namespace"], parts["name"], query, cut)
            return
        with self.double.lock:
            code, found = self._change(
                kind, parts["namespace"] or "", parts["name"], parts["sub"], query, body
            )
        if fault is not None and fault.late:
            self._fail(fault)
        self._send(code, found)

    def _change(
        self,
        kind: Kind,
        namespace: str,
        name: str | None,
        sub: str | None,
        query: Mapping[str, str],
        body: Any,
    ) -> tuple[int, Object]:
        api = self.double
        if name is None:
            if self.command == "POST":
                return 201, api.create(kind, namespace, body)
            items = [
                copy.deepcopy(each)
                for key, each in api._objects.items()
                if key[0] == kind and namespace in ("", key[1]) and _selected(each, query)
            ]
            if self.command == "DELETE":
                for each in items:
                    api.delete(kind, each["metadata"]["namespace"], each["metadata"]["name"], dict(body))
            group = f"{kind[0]}/{kind[1]}" if kind[0] else kind[1]
            head = {"resourceVersion": str(api._version)}
            return 200, {"kind": "List", "apiVersion": group, "metadata": head, "items": items}
        if self.command == "DELETE":
            options = dict(body) or {}
            if "gracePeriodSeconds" in query:
                options["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
            return 200, api.delete(kind, namespace, name, options)
        found = api._found(kind, namespace, name)
        if self.command == "GET":
            return 200, copy.deepcopy(found)
        changed: Object = copy.deepcopy(found)
        if self.command == "PUT":
            changed = {**changed, "status": body.get("status")} if sub == "status" else copy.deepcopy(body)
            given = body.get("metadata", {}).get("resourceVersion")
        elif isinstance(body, list):
            changed, given = _json_patch(changed, body), None
        else:
            given = (body.get("metadata") or {}).get("resourceVersion")
            changed = _merge(changed, body)
        if given and given != found["metadata"]["resourceVersion"]:
            message = (
                f'the object "{name}" has been modified; please apply your changes to the latest version'
            )
            raise Answer(409, "Conflict", message)
        _check(changed["metadata"])
        if changed.get("spec") != found.get("spec"):
            changed["metadata"]["generation"] = found["metadata"].get("generation", 1) + 1
        api.save(kind, changed)
        return 200, copy.deepcopy(changed)

    def _watch(
        self, kind: Kind, namespace: str | None, name: str | None, query: Mapping[str, str], cut: int | None
    ) -> None:
        api = self.double
        since = int(query.get("resourceVersion") or 0)
        until = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
        if name is not None:
            query = {**query, "fieldSelector": f"metadata.name={name}"}

        def wanted(each: Object) -> bool:
            return namespace in (None, each["metadata"].get("namespace")) and _selected(each, query)

        self._begin_stream()
        sent = 0
        with api.lock:
            if since == 0:
                since = api._version
                first = [
                    (since, "ADDED", kind, copy.deepcopy(each))
                    for key, each in api._objects.items()
                    if key[0] == kind
                ]
            else:
                first = []
            if since < api._oldest:
                gone = Answer(410, "Expired", f"too old resource version: {since} ({api._oldest})")
                self._chunk(json.dumps({"type": "ERROR", "object": gone.body}) + "\n")
                self._end_stream()
                return
        pending = first
        while True:
            for version, what, of, found in pending:
                since = max(since, version)
                if of == kind and wanted(found):
                    if cut is not None and sent >= cut:
                        raise _Cut
                    self._chunk(json.dumps({"type": what, "object": found}) + "\n")
                    sent += 1
            if cut is not None and sent >= cut:
                raise _Cut
            with api.lock:
                pending = [each for each in api._history if each[0] > since]
                if not pending:
                    if time.monotonic() >= until or api._stopped.is_set():
                        break
                    api.lock.wait(min(0.2, max(0.0, until - time.monotonic())))
        self._end_stream()

    def _log(self, namespace: str | None, name: str, query: Mapping[str, str], cut: int | None) -> None:
        api = self.double
        with api.lock:
            pod = api._found(PODS, namespace or "", name)
            uid = pod["metadata"]["uid"]
            statuses = pod["status"].get("containerStatuses") or []
            state = statuses[0]["state"] if statuses else {}
            if not state or "waiting" in state:
                why = state.get("waiting", {}).get("reason", "PodInitializing")
                message = f'container "base" in pod "{name}" is waiting to start: {why}'
                raise Answer(400, "BadRequest", message)
            kept = api._pods[uid].log
        at = 0
        if "sinceSeconds" in query:
            since = _now(-float(query["sinceSeconds"]), micro=True)
            at = sum(moment < since for moment, _ in kept)
        if "tailLines" in query:
            at = max(at, len(kept) - int(query["tailLines"]))
        stamped, follow = query.get("timestamps", "").lower() == "true", query.get("follow", "").lower()
        self._begin_stream("text/plain")
        sent = 0
        while True:
            with api.lock:
                lines = kept[at:]
                now = api._objects.get((PODS, namespace or "", name))
                ended = (
                    follow != "true"
                    or now is None
                    or now["metadata"]["uid"] != uid
                    or now["status"]["phase"] in ("Succeeded", "Failed")
                    or api._stopped.is_set()
                )
                if not lines and not ended:
                    api.lock.wait(0.2)
            for moment, line in lines:
                if cut is not None and sent >= cut:
                    raise _Cut
                self._chunk(f"{moment} {line}\n" if stamped else f"{line}\n")
                sent += 1
            at += len(lines)
            if ended and not lines:
                break
        self._end_stream()

    # ---- writing

    def _fail(self, fault: Fault) -> None:
        if fault.status == 0:
            raise _Cut
        reason = fault.reason or _REASONS.get(fault.status, "InternalError")
        raise Answer(fault.status, reason, fault.message or reason, fault.retry_after)

    def _send(self, code: int, body: Object, retry_after: int | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(data)

    def _begin_stream(self, content: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", content)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
