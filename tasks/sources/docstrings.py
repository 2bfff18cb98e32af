"""The standard library's docstrings, collected without importing any of its Python modules.

Python modules are parsed with `ast`, so nothing of them runs. Modules written in C have no source to parse:
those of `IN_C` are imported (each is safe to import: no output, no window, no network) and read through
`__doc__`. Only text that is the same on every machine with one Python version is taken: no values, no
defaults read from objects, no paths.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

LEFT_OUT = frozenset(
    {
        "__main__",  # programs, not documentation
        "aifc",
        "antigravity",  # a joke
        "asynchat",
        "asyncore",
        "cgi",
        "cgitb",
        "chunk",
        "distutils",
        "encodings",  # generated, one text a codec
        "ensurepip",
        "idlelib",  # an application
        "imghdr",
        "imp",
        "lib2to3",
        "mailcap",
        "msilib",
        "nntplib",
        "ntpath",  # says what os.path says
        "pipes",
        "pydoc_data",  # the language reference: a corpus of its own
        "smtpd",
        "sndhdr",
        "sunau",
        "telnetlib",
        "test",
        "tests",
        "this",  # a joke
        "tkinter",  # a thousand one-line docstrings translated from Tcl
        "turtle",  # drawing exercises
        "turtledemo",
        "uu",
        "xdrlib",
    }
)
"""Parts of a module's name that keep the module out. Those without a reason are gone since 3.12 or 3.13:
without them the corpus is nearly the same on every supported Python."""

SHOWN_AS = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "concurrent.futures._base": "concurrent.futures",
    "pathlib._local": "pathlib",
    "posixpath": "os.path",
}
"""Modules whose public name is another one."""

IN_C = {
    "_collections": "collections",
    "_contextvars": "contextvars",
    "_csv": "csv",
    "_struct": "struct",
    "array": "array",
    "atexit": "atexit",
    "binascii": "binascii",
    "builtins": "",
    "cmath": "cmath",
    "errno": "errno",
    "faulthandler": "faulthandler",
    "gc": "gc",
    "itertools": "itertools",
    "marshal": "marshal",
    "math": "math",
    "sys": "sys",
    "time": "time",
    "unicodedata": "unicodedata",
    "zlib": "zlib",
}
"""Modules in C -> the name under which their contents are known. One that this Python was built without is
left out. Those that differ by operating system (posix, fcntl, socket...) are not here."""

SHORTEST = 40
"""Docstrings of fewer characters say nothing."""


@dataclass(frozen=True)
class Docstring:
    """One docstring.

    Attributes:
        key: Where it stands, e.g. `os.path.join`; built-in names stand alone, e.g. `str.join`.
        what: "module", "class", "function" (methods too) or "property".
        call: How it is called, e.g. "os.path.join(a, *p)"; "" where that is unknown or no call.
        text: The docstring, without indentation.
    """

    key: str
    what: str
    call: str
    text: str


@functools.cache
def collect() -> tuple[Docstring, ...]:
    """Every public docstring of the standard library, sorted by key; a text that returns goes once."""
    found: dict[str, Docstring] = {}
    for name, path in _sources():
        tree = ast.parse(path.read_bytes())
        for docstring in _of_tree(tree, SHOWN_AS.get(name, name)):
            found.setdefault(docstring.key, docstring)
    for name, shown in IN_C.items():
        if importlib.util.find_spec(name) is not None:
            for docstring in _of_module(importlib.import_module(name), shown):
                found.setdefault(docstring.key, docstring)
    unique: dict[str, Docstring] = {}
    for key in sorted(found):
        if len(found[key].text) >= SHORTEST:
            unique.setdefault(" ".join(found[key].text.split()), found[key])
    return tuple(unique.values())


def _sources() -> Iterator[tuple[str, Path]]:
    """The standard library's public Python modules: name and file, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for top in sorted(sys.stdlib_module_names):
        paths = sorted((root / top).rglob("*.py")) if (root / top).is_dir() else [root / f"{top}.py"]
        for path in paths:
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            name = ".".join(parts)
            private = any(part.startswith("_") for part in parts) and name not in SHOWN_AS
            if path.is_file() and not private and not LEFT_OUT.intersection(parts):
                yield name, path


def _of_tree(tree: ast.Module, name: str) -> Iterator[Docstring]:
    text = ast.get_docstring(tree)
    if text:
        yield Docstring(name, "module", "", text)
    yield from _of_body(tree.body, name, in_class=False)


def _of_body(body: Sequence[ast.stmt], prefix: str, *, in_class: bool) -> Iterator[Docstring]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            nested = [*node.body, *node.orelse]
            nested += [stmt for handler in getattr(node, "handlers", []) for stmt in handler.body]
            yield from _of_body(nested, prefix, in_class=in_class)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_") and not (node.name.startswith("__") and node.name.endswith("__")):
                continue
            key = f"{prefix}.{node.name}"
            text = ast.get_docstring(node)
            if text:
                what, call = _nature(node, in_class)
                yield Docstring(key, what, f"{key}({call})" if call is not None else "", text)
            if isinstance(node, ast.ClassDef):
                yield from _of_body(node.body, key, in_class=True)


def _nature(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, in_class: bool
) -> tuple[str, str | None]:
    """What a definition is, and its arguments as they are written in a call (None: it is not called)."""
    if isinstance(node, ast.ClassDef):
        for stmt in node.body:
            if isinstance(stmt, ast.FunctionDef) and stmt.name == "__init__":
                return "class", _arguments(stmt.args, drop_first=True)
        return "class", None
    marks = {ast.unparse(mark).rsplit(".", 1)[-1] for mark in node.decorator_list}
    if marks & {"property", "cached_property", "setter", "getter", "deleter", "abstractproperty"}:
        return "property", None
    return "function", _arguments(node.args, drop_first=in_class and "staticmethod" not in marks)


def _arguments(arguments: ast.arguments, *, drop_first: bool) -> str:
    """Arguments without annotations (their spelling changes between versions) and without `self`."""
    bare = ast.parse(f"lambda {ast.unparse(_without_annotations(arguments))}: 0", mode="eval").body
    assert isinstance(bare, ast.Lambda)
    if drop_first and (bare.args.posonlyargs or bare.args.args):
        (bare.args.posonlyargs or bare.args.args).pop(0)
        named = len(bare.args.posonlyargs) + len(bare.args.args)
        bare.args.defaults = bare.args.defaults[-named:] if named else []
    return ast.unparse(bare.args)


def _without_annotations(arguments: ast.arguments) -> ast.arguments:
    def strip(argument: ast.arg) -> ast.arg:
        return ast.arg(arg=argument.arg, annotation=None)

    return ast.arguments(
        posonlyargs=[strip(argument) for argument in arguments.posonlyargs],
        args=[strip(argument) for argument in arguments.args],
        vararg=strip(arguments.vararg) if arguments.vararg else None,
        kwonlyargs=[strip(argument) for argument in arguments.kwonlyargs],
        kw_defaults=arguments.kw_defaults,
        kwarg=strip(arguments.kwarg) if arguments.kwarg else None,
        defaults=arguments.defaults,
    )


def _of_module(module: ModuleType, shown: str) -> Iterator[Docstring]:
    """The docstrings of a module in C: its own, its functions', its classes' and their methods'."""
    if module.__doc__:
        yield Docstring(shown or module.__name__, "module", "", inspect.cleandoc(module.__doc__))
    dot = f"{shown}." if shown else ""
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not (inspect.isbuiltin(value) or inspect.isclass(value)):
            continue
        if not value.__doc__ or value.__name__ != name:  # an alias, such as IOError
            continue
        what = "class" if inspect.isclass(value) else "function"
        yield Docstring(dot + name, what, _call_in_c(dot + name, value), inspect.cleandoc(value.__doc__))
        for part, member in sorted(vars(value).items()) if inspect.isclass(value) else ():
            text = getattr(member, "__doc__", None)
            if part.startswith("_") or not isinstance(text, str):
                continue
            key = f"{dot}{name}.{part}"
            if inspect.isgetsetdescriptor(member) or inspect.ismemberdescriptor(member):
                yield Docstring(key, "property", "", inspect.cleandoc(text))
            elif callable(member):
                yield Docstring(key, "function", _call_in_c(key, member), inspect.cleandoc(text))


def _call_in_c(key: str, value: object) -> str:
    signature = getattr(value, "__text_signature__", None)
    return key + re.sub(r"\$\w+(, /)?(, )?", "", signature) if signature else ""
