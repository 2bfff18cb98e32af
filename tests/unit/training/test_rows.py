"""Dataset rows and padding."""

import pytest

from tasks.recipe.failures import DataInvalid
from tasks.training.rows import read_rows, right_pad


def test_rows_come_in_order(write_rows):
    directory = write_rows("news", [{"key": "a"}, {"key": "ü"}])
    assert [row["key"] for row in read_rows(directory)] == ["a", "ü"]


@pytest.mark.parametrize(
    ("line", "words"), [('{"key": "b', "line 2: not JSON"), ("[1]", "line 2: a JSON object")]
)
def test_a_broken_line_is_named(tmp_path, line, words):
    (tmp_path / "rows.jsonl").write_text('{"key": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataInvalid, match=words):
        list(read_rows(tmp_path))


def test_padding_stands_on_the_right():
    assert right_pad([[1], [2, 3, 4]], 9).tolist() == [[1, 9, 9], [2, 3, 4]]
