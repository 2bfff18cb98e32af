import pytest

from tasks.recipe.cron import cron_error


@pytest.mark.parametrize(
    "text", ["0 3 * * 1", "*/15 0-6,22 1 jan-jun MON-fri", "0 0 31 12 7", "5/10 * * * *", "0 3 * * sun"]
)
def test_right(text):
    assert cron_error(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 3 * *", "5 fields"),
        ("", "has 0"),
        ("@daily", "5 fields"),
        ("60 3 * * *", "'60' is not a number from 0 to 59"),
        ("0 24 * * *", "hour"),
        ("0 3 0 * *", "day of the month"),
        ("0 3 * 13 *", "month"),
        ("0 3 * * funday", "one of sun"),
        ("0 5-3 * * *", "no range"),
        ("0 1-2-3 * * *", "no range"),
        ("*/0 * * * *", "no step"),
        ("*/ * * * *", "no step"),
        ("1,,2 * * * *", "between the commas"),
        ("0 ٣ * * *", "'٣' is not a number"),
    ],
)
def test_wrong(text, words):
    assert words in str(cron_error(text))
