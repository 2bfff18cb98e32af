"""The webhook: told at least once, in order, signed, and never in the way of a decision."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks import cli
from tasks.artefacts import Store
from tasks.recipe.failures import Failure
from tasks.release import webhook
from tasks.release.promote import promote, reject, rollback
from tasks.release.webhook import Receiver, begin, deliver, pending, receiver
from tasks.tracking import ledger, registry

SECRET = "not-a-real-secret"


@dataclass
class Answers:
    """A receiver that gives these answers in turn, then 200; an answer may be an error."""

    answers: list[int | OSError] = field(default_factory=list)
    got: list[tuple[Mapping[str, str], dict[str, Any]]] = field(default_factory=list)

    def __call__(self, to: Receiver, headers: Mapping[str, str], data: bytes) -> int:
        self.got.append((headers, json.loads(data)))
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, OSError):
            raise answer
        return answer

    @property
    def versions(self) -> list[str]:
        return [body["version"] for _, body in self.got]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", "https://hooks.example.org/a/token?x=1")
    monkeypatch.setenv("PERENNIAL_WEBHOOK_SECRET", SECRET)


def told(store: Store, send: Answers) -> list[str]:
    return deliver(store, ["pydocs"], send=send, wait=lambda seconds: None)


def test_promotions_and_rollbacks_are_told_once_and_in_order(three: Store) -> None:
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")
    promote(three, "pydocs", "2", "ben", "better")
    reject(three, "pydocs", "3", "ben", "no")
    rollback(three, "pydocs", "cleo", "worse")
    send = Answers()
    assert len(told(three, send)) == 3
    assert told(three, send) == []
    assert [(body["event"], body["version"], body["previous"]) for _, body in send.got] == [
        ("promotion", "1", None),
        ("promotion", "2", "1"),
        ("rollback", "1", "2"),
    ]
    line, (_, body) = ledger.history(three, "pydocs")[-1], send.got[-1]
    assert (body["by"], body["reason"], body["time"], body["id"]) == ("cleo", "worse", line.time, line.hash)
    assert (body["digest"], body["source"]) == (line.to_digest, registry.version("pydocs", "1").source)


def test_what_was_before_the_webhook_is_not_told(three: Store) -> None:
    promote(three, "pydocs", "1", "ada", "good")
    assert pending(three, "pydocs") == []
    begin(three, "pydocs")
    promote(three, "pydocs", "2", "ada", "good")
    begin(three, "pydocs")
    assert [line.to_version for line in pending(three, "pydocs")] == ["2"]


def test_a_receiver_can_check_the_signature(three: Store) -> None:
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")
    data = webhook.body(three, pending(three, "pydocs")[0])
    headers = webhook.headers(SECRET, data, "1700000000")
    expected = hmac.new(SECRET.encode(), b"1700000000." + data, hashlib.sha256).hexdigest()
    assert headers["X-Perennial-Signature"] == f"sha256={expected}"
    assert webhook.headers("another", data, "1700000000")["X-Perennial-Signature"] != f"sha256={expected}"
    assert headers["X-Perennial-Delivery"] == json.loads(data)["id"]
    assert headers["X-Perennial-Event"] == "promotion"


@pytest.mark.parametrize("answer", [500, 429, OSError("refused")])
def test_passing_failures_are_tried_again(three: Store, answer: int | OSError) -> None:
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")
    send = Answers([answer, answer])
    assert told(three, send) == [
        "webhook: promotion of version 1 of 'pydocs' delivered to https://hooks.example.org"
    ]
    assert len({headers["X-Perennial-Delivery"] for headers, _ in send.got}) == 1
    assert len(send.got) == 3


@pytest.mark.parametrize(
    ("answers", "attempts"), [([500] * 3, 3), ([OSError("away")] * 3, 3), ([404], 1), ([302], 1)]
)
def test_what_was_not_delivered_is_delivered_by_the_next_call(
    three: Store, answers: list[int | OSError], attempts: int
) -> None:
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")
    promote(three, "pydocs", "2", "ada", "good")
    send = Answers(list(answers))
    words = told(three, send)
    assert len(words) == 1
    assert f"was not delivered to https://hooks.example.org in {attempts} attempts" in words[0]
    assert "token" not in words[0]
    assert send.versions == ["1"] * attempts  # the next one waits for its turn
    kept = json.loads(three.read("webhook/pydocs/000004.json"))
    assert (kept["delivered"], kept["attempts"]) == (False, attempts)
    assert len(told(three, send)) == 2
    assert send.versions[attempts:] == ["1", "2"]


def test_a_process_that_died_before_it_could_tell_loses_nothing(three: Store) -> None:
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")  # and nothing after the ledger's line
    send = Answers()
    told(three, send)
    assert send.versions == ["1"]


@pytest.mark.parametrize(
    ("url", "secret", "words"),
    [
        ("", "", []),
        ("ftp://x", "s", ["WARNING: webhook: PERENNIAL_WEBHOOK_URL is no https:// or http:// address"]),
        ("https://x", "", ["nothing is sent unsigned"]),
    ],
)
def test_nothing_is_sent_where_it_is_not_set_up(
    three: Store, url: str, secret: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", url)
    monkeypatch.setenv("PERENNIAL_WEBHOOK_SECRET", secret)
    send = Answers()
    said = told(three, send)
    assert [word in line for word, line in zip(words, said, strict=True)] == [True] * len(words)
    assert send.got == []


def test_the_secret_may_stand_in_a_file(
    three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", "https://x")
    monkeypatch.delenv("PERENNIAL_WEBHOOK_SECRET", raising=False)
    monkeypatch.setenv("PERENNIAL_WEBHOOK_SECRET_FILE", str(tmp_path / "secret"))
    (warning,) = told(three, Answers())
    assert "PERENNIAL_WEBHOOK_SECRET_FILE" in warning
    assert "cannot be read: [Errno 2]" in warning
    (tmp_path / "secret").write_text("quiet\n")
    assert receiver() == (Receiver("https://x", "quiet"), "")
    send = Answers()
    told(three, send)
    assert send.versions == ["1"]


class Receiving(BaseHTTPRequestHandler):
    """Keeps what it gets; /away redirects, /broken fails."""

    got: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, dict(self.headers), data))
        self.send_response({"/away": 307, "/broken": 500}.get(self.path, 204))
        if self.path == "/away":
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    handler = type("Handler", (Receiving,), {"got": []})
    with HTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler.got  # type: ignore[attr-defined]
        running.shutdown()
        thread.join()


def test_over_http_itself(
    three: Store, server: tuple[str, list[tuple[str, dict[str, str], bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, got = server
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "gut für alle")
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", f"{url}/away")
    assert "answered 307" in deliver(three, ["pydocs"], wait=lambda seconds: None)[0]
    assert [path for path, _, _ in got] == ["/away"]  # the signed body went nowhere else
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", f"{url}/hook")
    assert "delivered" in deliver(three, ["pydocs"])[0]
    path, headers, data = got[-1]
    assert (path, json.loads(data)["reason"]) == ("/hook", "gut für alle")
    given = webhook.signature(SECRET, headers["X-Perennial-Timestamp"], data)
    assert hmac.compare_digest(given, headers["X-Perennial-Signature"])


def test_the_command_fails_until_the_receiver_is_back(
    three: Store,
    server: tuple[str, list[tuple[str, dict[str, str], bytes]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, got = server
    monkeypatch.setattr(webhook, "PAUSE_S", 0.0)
    monkeypatch.setenv("PERENNIAL_STORE", three.uri)
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", f"{url}/broken")
    assert cli.main(["deliver"]) == Failure.INFRASTRUCTURE
    said = capsys.readouterr().err
    assert (
        "WARNING: webhook: promotion of version 1 of 'pydocs' was not delivered to http://127.0.0.1" in said
    )
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", f"{url}/hook")
    assert cli.main(["deliver"]) == 0
    assert "delivered to http://127.0.0.1" in capsys.readouterr().out
    assert cli.main(["deliver"]) == 0
    assert "nothing to deliver" in capsys.readouterr().out
    assert [path for path, _, _ in got] == ["/broken"] * 3 + ["/hook"]
    monkeypatch.delenv("PERENNIAL_WEBHOOK_SECRET")
    assert cli.main(["deliver"]) == Failure.CONFIG_INVALID
    assert "nothing is sent unsigned; set it" in capsys.readouterr().err


def test_nobody_listening_is_no_failure(three: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    monkeypatch.setenv("PERENNIAL_WEBHOOK_URL", f"http://127.0.0.1:{port}")
    begin(three, "pydocs")
    promote(three, "pydocs", "1", "ada", "good")
    assert "no answer" in deliver(three, ["pydocs"], wait=lambda seconds: None)[0]
