"""Who is told what, by a real mail server and a real web server of this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from runtimes.failures import CommandFailed
from shared.notify import (
    CLASSES,
    EVENTS,
    REMEDIES,
    VARIABLE,
    Channel,
    Notice,
    channels,
    deadline,
    late,
    message,
    send,
)

from tasks.recipe.failures import ConfigInvalid, Failure
from tests.local_servers import mail_server, raw_server, web_server

TI = SimpleNamespace(dag_id="train__pydocs", task_id="adapted", run_id="manual__1")


def context(**more: Any) -> dict[str, Any]:
    return {
        "ti": TI,
        "task": SimpleNamespace(subject="Promote?", response_timeout=timedelta(hours=24)),
        **more,
    }


@pytest.fixture(autouse=True)
def address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org/")


def connection(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "http", **fields}))


def test_channels_are_read_with_their_events() -> None:
    found = channels(
        "smtp:ops@example.org; slack:team on approval, promotion ;webhook:pager on failure.diverged"
    )
    assert found == [
        Channel("smtp", "ops@example.org"),
        Channel("slack", "team", ("approval", "promotion")),
        Channel("webhook", "pager", ("failure.diverged",)),
    ]
    assert channels("") == []
    assert all(found[0].wants(event) for event in EVENTS)
    assert found[2].wants("failure.diverged")
    assert not found[2].wants("failure.data_invalid")
    assert Channel("smtp", "x", ("failure",)).wants("failure.data_invalid")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mail:ops@example.org", "is no channel"),
        ("smtp:", "is no channel"),
        ("smtp:x on promotoin", r"did you mean 'promotion'\?"),
        ("smtp:x on failure.diverge", r"did you mean 'diverged'\?"),
        ("smtp:x on approval.diverged", "is no class of failure"),
    ],
)
def test_a_wrong_setting_is_told_when_the_dags_load(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigInvalid, match=said):
        Notice("failure")
    monkeypatch.setenv(VARIABLE, "smtp:ops@example.org on promotion")
    Notice("failure")  # corrected, the DAGs load


def test_every_class_of_failure_has_somebody_who_acts() -> None:
    assert {failure.name for failure in Failure} <= set(REMEDIES)
    assert len(CLASSES) == len(Failure)


def test_a_failure_is_told_with_its_class_who_acts_and_a_link() -> None:
    told = message("failure", context(exception=CommandFailed("perennial step", 7)))
    assert told.event == "failure.diverged"
    assert told.headline == "train__pydocs: task adapted failed"
    assert "who acts: the recipe's author: usually the learning rate" in told.lines
    assert told.link == "https://airflow.example.org/dags/train__pydocs/runs/manual__1/tasks/adapted"


def test_a_worker_that_was_lost_is_told_too() -> None:
    told = message("failure", context(exception=None))
    assert told.event == "failure"
    assert "the worker itself was lost" in told.lines[-1]


def test_secrets_are_masked() -> None:
    error = CommandFailed("perennial plan: s3://user:hunter2hunter2@bucket/x", 6)
    assert "hunter2hunter2" not in message("failure", context(exception=error)).text


def test_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server() as (port, mails):
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "perennial@example.org"}
        connection(monkeypatch, "smtp_default", conn_type="smtp", host="127.0.0.1", port=port, extra=extra)
        monkeypatch.setenv(VARIABLE, "smtp:ops@example.org on approval")
        Notice("promotion")(context())
        assert mails == []
        Notice("approval")(context(params={"reason": "weekly <b>"}))
    (mail,) = mails
    assert mail["To"] == "ops@example.org"
    assert mail["From"] == "perennial@example.org"
    assert mail["Subject"] == "[perennial] train__pydocs: a model waits for a decision"
    body = mail.get_body(("html",))
    assert body is not None
    text = body.get_content()
    assert "Promote?" in text
    assert "without an answer within 1 day, 0:00:00 it is rejected" in text
    assert "weekly &lt;b&gt;" in text
    assert "/tasks/adapted/required_actions" in text


def test_a_webhook_gets_signed_json(monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server() as (url, posts):
        connection(monkeypatch, "pager", host=url, password="key")
        monkeypatch.setenv(VARIABLE, "webhook:pager")
        Notice("rollback", "{{ params.model }}")(context(params={"model": "pydocs", "reason": "wrong dates"}))
    ((headers, body),) = posts
    told = json.loads(body)
    assert told["event"] == "rollback"
    assert told["lines"] == ["run manual__1", "reason of the run: wrong dates", "pydocs"]
    expected = "sha256=" + hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert headers["x-perennial-signature"] == expected


def test_slack_gets_its_own_form(monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server() as (url, posts):
        connection(monkeypatch, "team", password=url)  # the address is the secret: it is the password
        monkeypatch.setenv(VARIABLE, "slack:team")
        Notice("drift", "the news <differ> & more")(context())
    ((headers, body),) = posts
    text = json.loads(body)["text"]
    assert text.startswith("*train__pydocs: the data drifted*\n")
    assert "the news &lt;differ&gt; &amp; more" in text
    assert text.endswith("/tasks/adapted|open in Airflow>")
    assert "x-perennial-signature" not in headers


@pytest.mark.parametrize("fault", ["nobody listens", "it answers 500", "no such connection"])
def test_a_channel_that_fails_stops_nothing_and_the_next_is_told(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server(500) as (broken, _), web_server() as (url, posts):
        monkeypatch.setenv(VARIABLE, "webhook:broken; webhook:good")
        connection(monkeypatch, "good", host=url)
        if fault == "nobody listens":
            connection(monkeypatch, "broken", host="http://127.0.0.1:9/")
        elif fault == "it answers 500":
            connection(monkeypatch, "broken", host=broken)
        Notice("promotion")(context())
    assert len(posts) == 1


@pytest.mark.parametrize("fault", ["no sender", "no HTTP", "no address"])
def test_no_fault_of_a_channel_reaches_the_task_that_tells(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = {"no sender": "ValueError", "no HTTP": "BadStatusLine", "no address": "InvalidURL"}[fault]
    with mail_server() as (port, _), raw_server(b"hello\r\n") as other, web_server() as (url, posts):
        extra = {"disable_ssl": True, "disable_tls": True}
        connection(monkeypatch, "smtp_default", conn_type="smtp", host="127.0.0.1", port=port, extra=extra)
        host = other if fault == "no HTTP" else "http://pager.example.org:port/"
        connection(monkeypatch, "broken", host=host)
        connection(monkeypatch, "good", host=url)
        broken = "smtp:ops@example.org" if fault == "no sender" else "webhook:broken"
        monkeypatch.setenv(VARIABLE, f"{broken}; webhook:good")
        Notice("approval")(context())
        send(message("approval", context()), logging.getLogger("notices"))
    assert len(posts) == 2
    assert said in caplog.text


def test_a_channel_is_told_again_once_its_connection_is_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "webhook:pager")
    connection(monkeypatch, "pager", host="http://127.0.0.1:9/")
    log = logging.getLogger("notices")
    send(message("promotion", context()), log)
    assert "could not tell webhook:pager that 'train__pydocs: a model was promoted'" in caplog.text
    with web_server() as (url, posts):
        connection(monkeypatch, "pager", host=url)
        send(message("promotion", context()), log)
    assert len(posts) == 1


def test_a_late_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server() as (url, posts):
        connection(monkeypatch, "pager", host=url)
        monkeypatch.setenv(VARIABLE, "webhook:pager on deadline")
        given = {
            "dag_run": {"dag_id": "train__pydocs", "dag_run_id": "manual__1"},
            "deadline": {"deadline_time": "2026-01-01T00:00:00+00:00"},
        }
        late(context=given)
    told = json.loads(posts[0][1])
    assert told["event"] == "deadline"
    assert "run manual__1 should have ended by 2026-01-01" in told["lines"][0]
    assert told["link"].endswith("/dags/train__pydocs/runs/manual__1")


def test_a_deadline_is_a_number_of_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deadline() is None
    monkeypatch.setenv("PERENNIAL_DEADLINE_HOURS", "1.5")
    alert = deadline()
    assert alert is not None
    assert alert.interval == timedelta(hours=1.5)
    assert alert.callback.path == "shared.notify.late"
    monkeypatch.setenv("PERENNIAL_DEADLINE_HOURS", "soon")
    with pytest.raises(ConfigInvalid, match="no number of hours"):
        deadline()


def test_nobody_is_told_where_no_channel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with mail_server() as (port, mails):
        connection(monkeypatch, "smtp_default", conn_type="smtp", host="127.0.0.1", port=port)
        Notice("failure")(context(exception=None))
    assert mails == []
