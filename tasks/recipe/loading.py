"""YAML with the line and column of every key, in the plain sense of YAML 1.2.

`on` and `no` are words, `2e-4` is a number, `3:30` is text, a key that stands twice is an error, and tags,
infinite numbers and recursion are refused: a recipe is JSON that people can write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.recipe.problems import Problem, dotted

Path_ = tuple[str | int, ...]
"""Where a value stands: ("steps", "adapted", "options", "lr")."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": re.compile(r"^(~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^([-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)$"),
    "float": re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
}
_MERGE = "<<"
_MOST_VALUES = 100_000
_MOST_DIGITS = 30
_DEEPEST = 50
EMPTY = "the file is empty"
_TOO_DEEP = "nested too deeply to be a recipe"


class _Loader(yaml.SafeLoader):
    """PyYAML's reader with the scalars of YAML 1.2's core schema instead of YAML 1.1's."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way of saying it


for _name, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, None)


@dataclass(frozen=True)
class Loaded:
    """A YAML text as data.

    Attributes:
        value: Mappings, lists, text, numbers, booleans and None; None where the text cannot be read at all.
        places: 1-based line and column of every key and list item.
        problems: What is wrong with the text.
    """

    file: str
    value: Any
    places: Mapping[Path_, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def list_recipes(folder: Path) -> list[Path]:
    """The recipe files of a folder, by name."""
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def load(source: Path | str) -> Loaded:
    """Read a recipe. A `Path`, or text of one line, is a file's name; any other text is the YAML itself."""
    if isinstance(source, str) and ("\n" in source or not source):
        return load_text(source)
    file = str(source)
    try:
        data = Path(source).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return _failed(
            file, 1, 1, f"cannot be read: {reason}", "give the path of a recipe, e.g. recipes/pydocs.yaml"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - before.rfind(b"\n")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        return _failed(file, before.count(b"\n") + 1, column, message, "save the file as UTF-8")
    return load_text(text, file)


def load_text(text: str, file: str = "<recipe>") -> Loaded:
    """Read YAML from text; text without anything in it has no value and one problem."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = " ".join(part for part in (error.problem, error.context) if part)
        remedy = "indent with spaces; YAML knows no tabs" if "\\t" in message else "correct the YAML there"
        return _failed(file, line, column, f"not YAML: {message}", remedy)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = error.position - before.rfind("\n")
        message = f"character {_character(error.character)} is not allowed in YAML"
        return _failed(file, before.count("\n") + 1, column, message, "remove it")
    except RecursionError:
        return _failed(file, 1, 1, _TOO_DEEP, "write it flat")
    except (ValueError, OverflowError) as error:
        # PyYAML lets these through for "\\UFFFFFFFF" and for directives with endless numbers.
        return _failed(file, 1, 1, f"not YAML: {error}", "look for \\U escapes and % directives")
    if root is None:
        return _failed(file, 1, 1, EMPTY, "begin with 'recipe: <name>'; see docs/writing-a-recipe.md")
    builder = _Builder(file)
    try:
        value = builder.build(root, ())
    except _TooMuchError as error:
        return _failed(file, error.line, error.column, str(error), "write it out plainly")
    return Loaded(file, value, builder.places, builder.problems)


class _TooMuchError(Exception):
    """The text expands to more than a recipe can be."""

    def __init__(self, message: str, node: yaml.Node) -> None:
        super().__init__(message)
        self.line, self.column = node.start_mark.line + 1, node.start_mark.column + 1


class _Builder:
    """Turns YAML nodes into plain values and notes where each stands."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[Path_, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, path: Path_) -> Any:
        self._count += 1
        if id(node) in self._open:
            raise _TooMuchError("an alias (*) refers to what contains it", node)
        if len(path) > _DEEPEST:
            raise _TooMuchError(_TOO_DEEP, node)
        if self._count > _MOST_VALUES:
            raise _TooMuchError(f"more than {_MOST_VALUES:,} values", node)
        self.places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path)
            if node.tag not in (_TAG + "map", _TAG + "seq"):
                self._problem(node, path, f"tag {node.tag} is not used in recipes", "remove the tag")
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, number)) for number, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: Any, path: Path_) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        pairs: list[tuple[str, yaml.Node, yaml.Node]] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                self._problem(key_node, path, "a key must be a word", "write 'key: value'")
            elif key_node.value == _MERGE:
                merged.update(self._merge(value_node, path))
            else:
                pairs.append((str(key_node.value), key_node, value_node))
        for key, key_node, value_node in pairs:
            if key in lines:
                message = f"'{key}' is already there, on line {lines[key]}"
                self._problem(key_node, (*path, key), message, "keep one of the two")
                continue
            lines[key] = key_node.start_mark.line + 1
            self._text(key_node, key, path)
            self.places[(*path, key)] = (lines[key], key_node.start_mark.column + 1)
            found[key] = self.build(value_node, (*path, key))
        return merged | found

    def _merge(self, node: yaml.Node, path: Path_) -> dict[str, Any]:
        """`<<: *common` takes the keys of another mapping; keys written beside it win."""
        value = self.build(node, path)
        if isinstance(value, dict):
            return value
        self._problem(node, path, "'<<' takes a mapping", "write '<<: *name' with '&name' on a mapping")
        return {}

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> Any:
        text, kind = str(node.value), str(node.tag).removeprefix(_TAG)
        if kind == "str":
            return self._text(node, text, path)
        if kind not in _SCALARS or not _SCALARS[kind].match(text):
            self._problem(node, path, f"tag {node.tag} is not used in recipes", "remove the tag")
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int" and len(text) > _MOST_DIGITS:
            self._problem(node, path, f"a number of {len(text)} digits", "write a number that a float holds")
            return 0
        if kind == "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text, 10)
        number = math.inf if text.lower().endswith(("inf", "nan")) else float(text)
        if not math.isfinite(number):
            self._problem(node, path, f"{text} is not finite", "write a finite number")
            return 0.0
        return number

    def _text(self, node: yaml.Node, text: str, path: Path_) -> str:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            self._problem(node, path, "half a surrogate pair is no character", "write the character itself")
        return text

    def _problem(self, node: yaml.Node, path: Path_, message: str, remedy: str) -> None:
        mark = node.start_mark
        self.problems.append(
            Problem(self.file, mark.line + 1, mark.column + 1, dotted(path), message, remedy)
        )


def _character(found: int | str) -> str:
    return repr(chr(found) if isinstance(found, int) else found)


def _failed(file: str, line: int, column: int, message: str, remedy: str) -> Loaded:
    return Loaded(file, None, {}, [Problem(file, line, column, "", message, remedy)])
