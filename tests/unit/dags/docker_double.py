"""A daemon that speaks as much of Docker's API as the container runtime uses, over real HTTP.

Containers run nothing: a test says what the next one prints and how it ends. What was asked is kept.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

STAMP = "2026-11-21T19:40:{:02d}.000000001Z"


@dataclass
class Container:
    """One container of the double.

    Attributes:
        created: What it was made of: the body of the request and its name.
        output: What it prints, with a second between the lines' times.
        ends: The state it ends with once it runs, or None: it runs until it is stopped or `end` is called.
        cut: Close the first stream of the log after this many lines.
    """

    name: str
    created: dict[str, Any]
    output: list[str] = field(default_factory=list)
    ends: dict[str, Any] | None = None
    cut: int | None = None
    state: dict[str, Any] = field(default_factory=lambda: {"Status": "created", "ExitCode": 0})
    streams: int = 0

    def end(self, **state: Any) -> None:
        """Let it end."""
        self.state |= {"Status": "exited", "ExitCode": 0, "OOMKilled": False} | state


@dataclass
class Daemon:
    """What the double holds and what it was asked.

    Attributes:
        images: References it has.
        registry: Reference -> None, where it can be pulled, or the problem.
        next: How the next container behaves: fields of Container.
        refuses: (status, message) of the next creation.
        start_refuses: (status, message) of the next start.
        asked: Method and path of every request.
        stops: The grace of every stop.
    """

    images: set[str] = field(default_factory=set)
    registry: dict[str, str | None] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    next: dict[str, Any] = field(default_factory=dict)
    refuses: tuple[int, str] | None = None
    start_refuses: tuple[int, str] | None = None
    asked: list[str] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    made: list[Container] = field(default_factory=list)
    url: str = ""

    def count(self, pattern: str) -> int:
        """How many requests match."""
        return sum(bool(re.search(pattern, each)) for each in self.asked)


class _Handler(BaseHTTPRequestHandler):
    daemon: Daemon
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""

    def _answer(self, status: int, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        found: dict[str, Any] = json.loads(self.rfile.read(length) or b"{}")
        return found

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        path = re.sub(r"^/v[\d.]+", "", unquote(parts.path))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = self._body()
        daemon = self.daemon
        daemon.asked.append(f"{self.command} {path}")
        if path == "/version":
            return self._answer(200, {"ApiVersion": "1.41", "MinAPIVersion": "1.24"})
        if path == "/images/create":
            return self._pull(query)
        if found := re.fullmatch(r"/images/(.+)/json", path):
            if found[1] in daemon.images:
                return self._answer(200, {"Id": "sha256:1", "RepoTags": [found[1]]})
            return self._answer(404, {"message": f"No such image: {found[1]}"})
        if path == "/containers/create":
            return self._create(query["name"], body)
        name = path.split("/")[2]
        container = daemon.containers.get(name)
        if container is None:
            return self._answer(404, {"message": f"No such container: {name}"})
        return self._container(container, path.split("/")[3:], query)

    do_GET = do_POST = do_DELETE = _handle

    def _pull(self, query: dict[str, str]) -> None:
        tag = query.get("tag", "latest")
        reference = query["fromImage"] + ("@" if tag.startswith("sha256:") else ":") + tag
        problem = self.daemon.registry.get(reference, "manifest unknown")
        if problem is None:
            self.daemon.images.add(reference)
            return self._answer(200, {"status": "Downloaded"})
        # A problem that shows after the answer has begun is told inside it, with status 200.
        return self._answer(200, {"errorDetail": {"message": problem}, "error": problem})

    def _create(self, name: str, body: dict[str, Any]) -> None:
        daemon = self.daemon
        if daemon.refuses:
            status, message = daemon.refuses
            daemon.refuses = None
            return self._answer(status, {"message": message})
        if name in daemon.containers:
            return self._answer(409, {"message": f"the name {name} is in use"})
        container = Container(name=name, created=body, **daemon.next)
        daemon.containers[name] = container
        daemon.made.append(container)
        return self._answer(201, {"Id": name, "Warnings": []})

    def _container(self, container: Container, words: list[str], query: dict[str, str]) -> None:
        daemon = self.daemon
        match self.command, words:
            case "GET", ["json"]:
                config = container.created | {"Image": container.created["Image"], "Tty": False}
                shown = {"Id": container.name, "Name": f"/{container.name}", "State": container.state}
                return self._answer(200, shown | {"Config": config})
            case "POST", ["start"]:
                if daemon.start_refuses:
                    status, message = daemon.start_refuses
                    return self._answer(status, {"message": message})
                container.state["Status"] = "running"
                if container.ends is not None:
                    container.end(**container.ends)
                return self._answer(204)
            case "POST", ["stop"]:
                daemon.stops.append(int(query["t"]))
                container.end(ExitCode=5)
                return self._answer(204)
            case "GET", ["logs"]:
                return self._logs(container, int(query.get("since", 0)))
            case "DELETE", []:
                del daemon.containers[container.name]
                return self._answer(204)
        return self._answer(500, {"message": f"not part of the double: {self.command} {words}"})

    def _logs(self, container: Container, since: int) -> None:
        """The log as frames of eight bytes and a piece, until the container has ended."""
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.raw-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        container.streams += 1
        sent = max(0, since - 1795290000)  # the line of second n is written at 19:40:n
        while True:
            for place, line in list(enumerate(container.output))[sent:]:
                if container.cut is not None and container.streams == 1 and place >= container.cut:
                    self.close_connection = True
                    return
                # A line comes in two pieces, as a daemon may send it.
                data = f"{STAMP.format(place)} {line}\n".encode()
                for piece in (data[:20], data[20:]):
                    self.wfile.write(b"\x01\0\0\0" + len(piece).to_bytes(4, "big") + piece)
                sent = place + 1
            self.wfile.flush()
            if container.state["Status"] != "running":
                break
            time.sleep(0.01)
        self.close_connection = True


@contextmanager
def docker_daemon() -> Iterator[Daemon]:
    """A running double."""
    daemon = Daemon()
    handler = type("Handler", (_Handler,), {"daemon": daemon})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    daemon.url = f"tcp://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield daemon
    finally:
        server.shutdown()
        server.server_close()
