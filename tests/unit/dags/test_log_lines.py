"""Lines of a log by the time before each: every one once, however coarsely they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from runtimes.log_lines import SKEW_SECONDS, newer, seconds_since

LOG = ["2026-11-21T12:00:00.1Z one", "2026-11-21T12:00:00.12Z two words", "2026-11-21T12:00:01Z three"]


def words(lines: list[str], than: str = "") -> list[str]:
    return [line for _, line in newer(lines, than)]


def test_a_line_is_shown_once_although_fractions_differ_in_length() -> None:
    assert words(LOG) == ["one", "two words", "three"]
    moments = [moment for moment, _ in newer(LOG, "")]
    assert [words(LOG, moment) for moment in moments] == [["two words", "three"], ["three"], []]


def test_a_nanosecond_is_a_difference_and_a_zone_is_none() -> None:
    first, second = (f"2026-11-21T12:00:00.12345678{digit}Z" for digit in "12")
    assert words([f"{second} next"], first) == ["next"]
    assert words([f"{first} before"], second) == []
    assert words(["2026-11-21T13:00:00.123456781+01:00 the same"], first) == []


def test_lines_of_one_moment_are_all_shown() -> None:
    assert words(["2026-11-21T12:00:02Z a", "2026-11-21T12:00:02Z b"], "2026-11-21T12:00:01Z") == ["a", "b"]


def test_a_line_without_a_moment_goes_with_the_one_before_it() -> None:
    odd = [*LOG, "2026-11-21 is a day", "unable to retrieve container logs", ""]
    assert words(odd)[3:] == ["2026-11-21 is a day", "unable to retrieve container logs", ""]
    last = list(newer(odd, ""))[-1][0]
    assert last == "2026-11-21T12:00:01Z"
    assert words(odd, last) == []
    assert words(["unable to retrieve container logs"], last) == ["unable to retrieve container logs"]


def test_what_is_asked_for_covers_the_moment_though_clocks_differ() -> None:
    assert seconds_since("") is None
    for seconds in (0.0, 0.4, 30.0, -5.0):
        asked = seconds_since((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat())
        assert asked is not None
        assert max(seconds, 0) + SKEW_SECONDS <= asked <= max(seconds, 0) + SKEW_SECONDS + 2
