import ast
import subprocess
import sys

import pytest

from tasks.sources.docstrings import _of_tree, collect


def test_the_size_of_the_corpus():
    # 4,309 docstrings and 1,154,366 characters on 3.11.7, 4,343 and 1,176,833 on 3.13.0
    assert len(collect()) == pytest.approx(4309, rel=0.05)
    assert sum(len(one.text) for one in collect()) == pytest.approx(1_154_366, rel=0.07)


def test_keys_are_sorted_and_texts_are_unique():
    keys = [one.key for one in collect()]
    texts = [" ".join(one.text.split()) for one in collect()]
    assert keys == sorted(set(keys))
    assert len(set(texts)) == len(texts)


def test_functions_are_known_by_their_public_names():
    by_key = {one.key: one for one in collect()}
    join = by_key["os.path.join"]
    assert (join.what, join.call) == ("function", "os.path.join(a, *p)")
    assert join.text.startswith("Join two or more pathname components")
    assert by_key["str.join"].call == "str.join(iterable, /)"
    assert by_key["decimal.Decimal.from_float"].what == "function"


def test_no_path_or_address_of_this_machine_is_in_the_text():
    everything = "\n".join(one.text + one.call for one in collect())
    assert sys.prefix not in everything
    assert sys.base_prefix + "/lib/python" not in everything
    assert "at 0x7f" not in everything


def test_only_names_that_may_be_called_by_others_are_collected():
    source = '''
"""A module of some words."""
if True:
    def shown(self: int, a: str = "x", /, *, b=None) -> int:
        """A function inside a condition."""
        def inner():
            """Nobody can call this."""
def _hidden():
    """Not public."""
class Thing:
    """A class."""
    def __init__(self, size: int = 3): ...
    def method(self, x=1, *rest): "Does something."
    @staticmethod
    def static(x): "Needs nothing."
    @property
    def colour(self): "What one sees."
'''
    found = {one.key: (one.what, one.call) for one in _of_tree(ast.parse(source), "m")}
    assert found == {
        "m": ("module", ""),
        "m.shown": ("function", "m.shown(self, a='x', /, *, b=None)"),
        "m.Thing": ("class", "m.Thing(size=3)"),
        "m.Thing.method": ("function", "m.Thing.method(x=1, *rest)"),
        "m.Thing.static": ("function", "m.Thing.static(x)"),
        "m.Thing.colour": ("property", ""),
    }


def test_collecting_imports_no_module_that_does_something():
    code = (
        "import sys; from tasks.sources.docstrings import collect; collect();"
        "print(sorted({'antigravity', 'this', 'tkinter', 'turtle', 'webbrowser'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""
