import pytest

from tasks.sources.splits import belongs, is_held_out


def test_the_hash_of_a_key_never_changes():
    # golden: if one of these moves, what was held out in earlier runs would be trained on
    held_out = ["dict", "raise", "return", "slicings", "string-methods"]
    trained_on = ["assert", "if", "yield", "types", "os.path.join", ""]
    assert [key for key in held_out + trained_on if is_held_out(key)] == held_out


def test_about_a_tenth_is_held_out():
    share = sum(is_held_out(f"row {number}") for number in range(5000)) / 5000
    assert 0.08 < share < 0.12


@pytest.mark.parametrize("key", ["dict", "assert"])
def test_every_key_is_on_one_side_and_in_all(key):
    assert belongs(key, "train") != belongs(key, "heldout")
    assert belongs(key, "all")
