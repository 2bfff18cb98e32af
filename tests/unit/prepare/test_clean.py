import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tasks.prepare.clean import Deduplication, clean, content_key


def clean_all(text: str) -> str:
    return clean(text, form="NFC", control=True, zero_width=True)


def test_line_ends_control_characters_and_zero_width_go():
    assert clean_all("a\r\nb\rc\x00\x1b\td\u200be\ufeff") == "a\nb\nc\tde"


def test_joiners_that_spell_words_stay():
    text = "می\u200cخواهم 👩\u200d👧"
    assert clean_all(text) == text


def test_each_rule_is_an_option():
    assert clean("\x07\u200be\u0301", form="none", control=False, zero_width=False) == "\x07\u200be\u0301"
    assert clean("ﬁ", form="NFKC", control=True, zero_width=True) == "fi"


@given(st.text())
def test_cleaning_is_idempotent_and_normal(text):
    once = clean_all(text)
    assert unicodedata.is_normalized("NFC", once)
    assert clean_all(once) == once


def test_duplicates_are_equal_up_to_white_space():
    deduplication = Deduplication(enabled=True)
    assert deduplication.filter(["a  b\n", "  ", "c"]) == ["a  b\n", "c"]
    assert deduplication.filter(["a b", "c d"]) == ["c d"]
    assert (deduplication.kept, deduplication.empty, deduplication.duplicates) == (3, 1, 1)
    assert content_key("a b") != content_key("ab")


def test_deduplication_can_be_off():
    assert Deduplication(enabled=False).filter(["a", "a"]) == ["a", "a"]
