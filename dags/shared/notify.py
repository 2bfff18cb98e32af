"""Who is told what: mail, Slack or a webhook, through Airflow's notifiers.

`PERENNIAL_NOTIFY`, for Airflow's workers and DAG processor alike, lists the channels, with `;` between them:

    smtp:ops@example.org; slack:team on approval, promotion, rollback; webhook:pager on failure.data_invalid

`smtp:` names who gets the mail, sent by the connection `smtp_default`; `slack:` and `webhook:` name an
Airflow connection whose host is the URL to post to (or whose password, where the address is the secret).
Without `on` a channel gets everything. A channel that fails, for whatever reason, is an error in the log and
stops nothing: a release does not depend on a mail server, and the watchdog sees what waits for an answer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseNotifier, Connection
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowException

from tasks.recipe.failures import ConfigInvalid, Failure
from tasks.recipe.problems import did_you_mean
from tasks.recipe.secrets import mask

VARIABLE = "PERENNIAL_NOTIFY"
KINDS = ("smtp", "slack", "webhook")
EVENTS = ("failure", "approval", "promotion", "rollback", "drift", "deadline", "watchdog")
CLASSES = tuple(failure.name.lower() for failure in Failure)
TIMEOUT_SECONDS = 10.0

ACTS = {
    "failure": "{dag}: task {task} failed",
    "approval": "{dag}: a model waits for a decision",
    "promotion": "{dag}: a model was promoted",
    "rollback": "{dag}: a model was rolled back",
    "drift": "{dag}: the data drifted",
    "deadline": "{dag}: a run is late",
    "watchdog": "{dag}: something needs a look",
}
"""Event -> the headline."""

REMEDIES = {
    "CONFIG_INVALID": "the recipe's author: the log names file, line and key",
    "DATA_INVALID": "the data's owner: the log names rule, count and keys",
    "OUT_OF_MEMORY": "the operator: one retry with a smaller micro-batch did not mend it",
    "PREEMPTED": "nobody, as a rule: it went on as long as retries allowed; run it again",
    "INFRASTRUCTURE": "the operator: store, MLflow, disk or network; the retries did not mend it",
    "DIVERGED": "the recipe's author: usually the learning rate",
    "GATES_FAILED": "the recipe's author: the report says which gates, and by how much",
    "OVER_BUDGET": "whoever pays: all is kept; raise the run's budget and start its step again",
    "BUG": "us: report it with the log's last lines",
}
"""Name of a class of failure -> who acts."""


@dataclass(frozen=True)
class Channel:
    """One way to tell somebody: its kind, the address or connection, the events; all where there are none."""

    kind: str
    target: str
    events: tuple[str, ...] = ()

    def wants(self, event: str) -> bool:
        """Whether it gets an event: `failure.data_invalid` is one of `failure` too."""
        return not self.events or event in self.events or event.partition(".")[0] in self.events


@dataclass(frozen=True)
class Message:
    """What is told: a headline, lines of text, and a link into Airflow."""

    event: str
    headline: str
    lines: tuple[str, ...]
    link: str

    @property
    def text(self) -> str:
        """The whole as plain text."""
        return "\n".join([self.headline, "", *self.lines, *(["", self.link] if self.link else [])])


def channels(text: str) -> list[Channel]:
    """Read the channels.

    Raises:
        ConfigInvalid: A kind or an event that there is not; the message says which there are.
    """
    found = []
    for part in filter(None, (each.strip() for each in text.split(";"))):
        address, on, listed = part.partition(" on ")
        kind, colon, target = address.strip().partition(":")
        if kind not in KINDS or not colon or not target:
            raise ConfigInvalid(
                f"{VARIABLE}: '{address.strip()}' is no channel; write smtp:ADDRESS, slack:CONNECTION or "
                f"webhook:CONNECTION"
            )
        events = tuple(filter(None, (each.strip() for each in listed.split(",")))) if on else ()
        for event in events:
            name, dot, failure = event.partition(".")
            if name not in EVENTS:
                raise ConfigInvalid(f"{VARIABLE}: there is no event '{event}'; {did_you_mean(name, EVENTS)}")
            if dot and (name != "failure" or failure not in CLASSES):
                raise ConfigInvalid(
                    f"{VARIABLE}: '{event}' is no class of failure; {did_you_mean(failure, CLASSES)}"
                )
        found.append(Channel(kind, target, events))
    return found


class Notice(BaseNotifier):
    """Tells an event to every channel that wants it.

    Args:
        event: One of EVENTS.
        words: A line more, a template.
    """

    template_fields = ("words",)

    def __init__(self, event: str, words: str = "", **given: Any) -> None:
        super().__init__(**given)
        self.event = event
        self.words = words
        channels(os.environ.get(VARIABLE, ""))  # a wrong setting is an import error, not a lost message

    def notify(self, context: Any) -> None:
        """Send it; a channel that fails is logged."""
        send(message(self.event, context, self.words), self.log)


def deadline() -> DeadlineAlert | None:
    """The alert for a run that has not ended `PERENNIAL_DEADLINE_HOURS` after it was queued, if that is set.

    It runs on the executor, like a task: no triggerer is needed.
    """
    hours = os.environ.get("PERENNIAL_DEADLINE_HOURS")
    if not hours:
        return None
    try:
        interval = timedelta(hours=float(hours))
    except ValueError as error:
        raise ConfigInvalid(f"PERENNIAL_DEADLINE_HOURS is '{hours}', which is no number of hours") from error
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=interval,
        callback=SyncCallback("shared.notify.late"),
    )


def late(context: Any, **_: Any) -> None:
    """What a deadline alert calls when a run has not ended in time (Airflow imports it by its name)."""
    import logging

    run = (context or {}).get("dag_run") or {}
    due = (context or {}).get("deadline", {}).get("deadline_time", "")
    dag, run_id = str(run.get("dag_id", "")), str(run.get("dag_run_id") or run.get("run_id") or "")
    told = Message(
        "deadline",
        ACTS["deadline"].format(dag=dag),
        (f"run {run_id} should have ended by {due}", "see what it does; nothing was stopped"),
        link(dag, run_id),
    )
    send(told, logging.getLogger(__name__))


def message(event: str, context: Any, words: str = "") -> Message:
    """An event in words, from Airflow's context."""
    ti = context["ti"]
    dag, task, run_id = str(ti.dag_id), str(ti.task_id), str(ti.run_id)
    lines = [f"run {run_id}"]
    name, place = event, link(dag, run_id, task)
    if event == "failure":
        error = context.get("exception")
        failure = getattr(error, "failure", None)
        if isinstance(failure, Failure):
            name = f"failure.{failure.name.lower()}"
            lines += [failure.name.lower().replace("_", " "), f"who acts: {REMEDIES[failure.name]}"]
        lines.append(str(error or "no reason is known: the worker itself was lost")[:2000])
    if event in ("watchdog", "drift"):
        lines += str(context.get("exception") or "").splitlines()
    if event == "approval":
        lines.append(str(getattr(context["task"], "subject", "")))
        hours = getattr(context["task"], "response_timeout", None)
        lines.append(f"without an answer within {hours} it is rejected" if hours else "")
        place += "/required_actions"
    reason = str((context.get("params") or {}).get("reason") or "")
    lines += [f"reason of the run: {reason}"] if reason else []
    lines += [words] if words else []
    told = tuple(mask(line) for line in lines if line)
    return Message(name, ACTS[event].format(dag=dag, task=task), told, place)


def link(dag: str, run_id: str, task: str = "") -> str:
    """The address of a run or a task in Airflow; "" where Airflow does not know its own."""
    base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    if not base or not dag:
        return ""
    place = f"{base}/dags/{quote(dag)}/runs/{quote(run_id)}"
    return f"{place}/tasks/{quote(task)}" if task else place


def send(told: Message, log: Any) -> None:
    """Hand a message to every channel that wants it.

    Whatever a channel raises is logged and the next is told. Airflow passes on what a notifier raises:
    otherwise a mail server's connection without a sender would fail the task that asks for the approval.
    """
    for channel in channels(os.environ.get(VARIABLE, "")):
        if not channel.wants(told.event):
            continue
        try:
            _SENDERS[channel.kind](channel, told)
            log.info("told %s:%s: %s", channel.kind, channel.target, told.headline)
        except Exception as error:  # noqa: BLE001  providers raise what they like; a release must not end of it
            log.error(
                "could not tell %s:%s that '%s': %s: %s",
                channel.kind,
                channel.target,
                told.headline,
                type(error).__name__,
                mask(str(error)),
            )


def _mail(channel: Channel, told: Message) -> None:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    body = "".join(f"<p>{_escaped(line)}</p>" for line in told.text.split("\n") if line)
    SmtpNotifier(to=channel.target, subject=f"[perennial] {told.headline}", html_content=body).notify({})


def _slack(channel: Channel, told: Message) -> None:
    """Slack's incoming webhook: a JSON object with the text, in Slack's own mark-up."""
    text = f"*{_escaped(told.headline)}*\n" + "\n".join(_escaped(line) for line in told.lines)
    if told.link:
        text += f"\n<{told.link}|open in Airflow>"
    _post(channel, {"text": text})


def _webhook(channel: Channel, told: Message) -> None:
    _post(
        channel,
        {
            "event": told.event,
            "headline": told.headline,
            "lines": list(told.lines),
            "link": told.link,
        },
    )


def _post(channel: Channel, content: dict[str, Any]) -> None:
    """Post JSON to a connection's URL, signed where it has a key (HMAC-SHA256 of the body)."""
    connection = Connection.get(channel.target)
    host = str(connection.host or connection.password or "")
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    if "://" not in host and connection.port:
        url += f":{connection.port}"
    if not url.startswith(("https://", "http://")) or not host:
        raise AirflowException(f"connection '{channel.target}' has no http address in its host")
    data = json.dumps(content, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "perennial"}
    if connection.host and connection.password:
        key = str(connection.password).encode()
        headers["X-Perennial-Signature"] = "sha256=" + hmac.new(key, data, hashlib.sha256).hexdigest()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        answer.read(1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_SENDERS = {"smtp": _mail, "slack": _slack, "webhook": _webhook}
