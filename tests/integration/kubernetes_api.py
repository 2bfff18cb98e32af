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
plural="trainjobs")` and moments of its own: any function of (api, object). Moments of
pods: kubernetes_lives.py.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from tests.integration.kubernetes_http import Answer, Fault, Handler, Request, check
from tests.integration.kubernetes_lives import (
    EVENTS,
    PODS,
    Kind,
    Life,
    Moment,
    Object,
    Wait,
    exited,
    now,
    running,
    scheduled,
    vanished,
)


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

        class Bound(Handler):
            double = api

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
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
        """Let the object of this name live on from its `Wait()`; it must come to one within a minute."""
        until = time.monotonic() + 60
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
            check(metadata)
            name = metadata["name"]
            if (kind, namespace, name) in self._objects:
                raise Answer(409, "AlreadyExists", f'{kind[2]} "{name}" already exists')
            metadata.update(namespace=namespace, uid=str(uuid.uuid4()), creationTimestamp=now(), generation=1)
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
                    metadata.update(deletionTimestamp=now(grace), deletionGracePeriodSeconds=grace)
                    self.save(kind, found)
                    self._terminate(found)
            elif metadata.get("finalizers"):
                metadata["deletionTimestamp"] = now()
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
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "source": {"component": "kubelet"},
        }
        self.create(EVENTS, metadata["namespace"], made)

    def log(self, pod: Object, *lines: str) -> None:
        """Lines that the container prints."""
        with self.lock:
            self._pods[pod["metadata"]["uid"]].log += [(now(micro=True), line) for line in lines]
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
                        self._living = [other for other in self._living if other is not each]
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
