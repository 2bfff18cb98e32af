"""HTTP for the Kubernetes API double: paths, verbs, selectors, patches, streams (see kubernetes_api.py)."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.integration.kubernetes_lives import PODS, Kind, Object, now

if TYPE_CHECKING:
    from tests.integration.kubernetes_api import KubernetesApi

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


# ---- checks, selectors and patches


def check(metadata: Object) -> None:
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


class Handler(BaseHTTPRequestHandler):
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
        check(changed["metadata"])
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
            since = now(-float(query["sinceSeconds"]), micro=True)
            at = sum(moment < since for moment, _ in kept)
        if "tailLines" in query:
            at = max(at, len(kept) - int(query["tailLines"]))
        stamped, follow = query.get("timestamps", "").lower() == "true", query.get("follow", "").lower()
        self._begin_stream("text/plain")
        sent = 0
        while True:
            with api.lock:
                lines = kept[at:]
                current = api._objects.get((PODS, namespace or "", name))
                ended = (
                    follow != "true"
                    or current is None
                    or current["metadata"]["uid"] != uid
                    or current["status"]["phase"] in ("Succeeded", "Failed")
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
