"""Lines of a container's log that are new, by the time that Kubernetes puts before each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

SKEW_SECONDS = 60
"""How far a node's clock may be from ours: Kubernetes counts back from its own."""

Moment = tuple[datetime, str]
"""A time, and its nanoseconds, which are more than a datetime holds."""


def newer(lines: Iterable[str], than: str) -> Iterator[tuple[str, str]]:
    """The lines that were printed after a moment, each once.

    Args:
        lines: In their order, each with its moment before it and without its end. One that has none, such
            as the kubelet's word that it cannot read the log, counts as the line before it does.
        than: The moment of the last line that is known, or "": all are new.

    Yields:
        The moment of a line as it is written, and its words.
    """
    last, at, new = _moment(than), than, True
    for line in lines:
        stamp, _, words = line.partition(" ")
        moment = _moment(stamp)
        if moment is None:
            words = line
        else:
            new = last is None or moment > last
            at = stamp if new else at
        if new:
            yield at, words


def seconds_since(moment: str) -> int | None:
    """What to ask Kubernetes for, so that no line after a moment is missing; None for "": the whole log.

    It takes whole seconds; `newer` leaves out what comes twice by that.
    """
    if not moment:
        return None
    past = datetime.now(UTC) - datetime.fromisoformat(moment)
    return max(0, math.ceil(past.total_seconds())) + SKEW_SECONDS


def _moment(stamp: str) -> Moment | None:
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    fraction = stamp.partition(".")[2].partition("+")[0].rstrip("Z")  # without the zeros at its end, at times
    return None if time.tzinfo is None else (time, fraction.ljust(9, "0"))
