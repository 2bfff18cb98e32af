"""Calls that would run what they read, or hand it to a shell, stand nowhere in the source but in a table.

Read from the syntax of every file, functions included. EXCEPTIONS says where one is needed, and why safely.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("tasks", "dags", "docs", "docker", "k8s", "mlflow", "benchmarks")

MODULES = {
    "pickle": "unpickling runs code: use JSON, safetensors or numpy without pickles",
    "cPickle": "unpickling runs code",
    "_pickle": "unpickling runs code",
    "dill": "unpickling runs code",
    "cloudpickle": "unpickling runs code",
    "joblib": "it unpickles",
    "shelve": "it unpickles",
    "marshal": "it loads code",
    "tarfile": "members of an archive may leave its folder: nothing of ours unpacks archives",
    "zipfile": "members of an archive may leave its folder",
    "telnetlib": "speaks to hosts nobody allowed",
    "ftplib": "speaks to hosts nobody allowed",
}
"""Modules that are not imported -> why."""

NAMES = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "makes text into code",
    "__import__": "imports what a text says; importlib.import_module is checked by the table of methods",
}
"""Built-in functions that are not called -> why."""

CALLS = {
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "asyncio.create_subprocess_shell": "a shell",
    "shutil.unpack_archive": "members of an archive may leave its folder",
    "yaml.load": "constructs objects unless its loader is a safe one: use tasks.recipe.loading",
    "yaml.load_all": "constructs objects unless its loader is a safe one",
    "yaml.full_load": "constructs objects",
    "yaml.unsafe_load": "constructs objects",
    "yaml.compose": "is as safe as its loader",
    "pandas.read_pickle": "unpickling runs code",
    "pd.read_pickle": "unpickling runs code",
    "torch.load": "unpickles: weights are safetensors",
    "torch.save": "pickles: weights are safetensors",
    "torch.hub.load": "runs a repository's code",
    "tempfile.mktemp": "its name can be taken by another process",
}
"""Functions that are not called -> why."""

NEEDED = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "from_pretrained": ("trust_remote_code", False),
}
"""Functions (or methods) that are called with an argument of a value only."""

FORBIDDEN_ARGUMENTS = {
    ("shell", True): "a parameter must never reach a shell",
    ("trust_remote_code", True): "a model brings no code",
    ("weights_only", False): "unpickling runs code",
    ("allow_pickle", True): "unpickling runs code",
    ("verify", False): "whoever sits in between would be believed",
}

EXCEPTIONS = {
    ("tasks/training/checkpoint_data.py", "pickle"): "for the name of the error that torch's restricted "
    "unpickler raises; nothing is unpickled there (tests/unit/training/test_checkpoint_data.py)",
    (
        "tasks/recipe/loading.py",
        "yaml.compose",
    ): "its _Loader is a SafeLoader, and nothing is constructed: the "
    "nodes are read one by one, tags refused (tests/unit/recipe/test_loading.py)",
    ("tasks/training/trainable/adapter_files.py", "PeftModel.from_pretrained"): "the base is loaded by then; "
    "peft's own adapters bring no code, and other kinds were refused (tests/unit/sft/test_adapter.py)",
    **{
        (
            "tasks/evaluate/sandbox_child.py",
            name,
        ): "running a model's program is what this process is for: it "
        "has given up network, files and memory first (tests/unit/evaluate/test_sandbox.py)"
        for name in ("exec", "compile")
    },
}
"""(file, what) -> why it is safe there. An exception that is not used any more fails the test."""


def found(path: Path, text: str) -> Iterator[tuple[str, int, str]]:
    """What stands in a file and may not: (what, line, why)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from _import(node.lineno, [alias.name for alias in node.names])
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from _import(node.lineno, [module, *(f"{module}.{alias.name}" for alias in node.names)])
        if isinstance(node, ast.Call):
            yield from _call(node)


def _import(line: int, names: list[str]) -> Iterator[tuple[str, int, str]]:
    for name in names:
        if name in CALLS:
            yield name, line, CALLS[name]
        if name.split(".")[0] in MODULES:
            yield name.split(".")[0], line, MODULES[name.split(".")[0]]


def _call(node: ast.Call) -> Iterator[tuple[str, int, str]]:
    name = ast.unparse(node.func)
    if isinstance(node.func, ast.Name) and name in NAMES:
        yield name, node.lineno, NAMES[name]
    if name in CALLS:
        yield name, node.lineno, CALLS[name]
    given = {
        keyword.arg: keyword.value.value
        for keyword in node.keywords
        if keyword.arg and isinstance(keyword.value, ast.Constant)
    }
    for (argument, value), why in FORBIDDEN_ARGUMENTS.items():
        if argument in given and given[argument] is value:
            yield f"{argument}={value}", node.lineno, why
    for needed, (argument, value) in NEEDED.items():
        called = name == needed or ("." not in needed and name.endswith(f".{needed}"))
        if called and given.get(argument, ...) is not value:
            yield name, node.lineno, f"say {argument}={value}"


def sources() -> list[Path]:
    return sorted(path for top in FOLDERS for path in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_it_reads(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    bad = [
        f"{name}:{line}: {what}: {why}"
        for what, line, why in found(path, path.read_text(encoding="utf-8"))
        if (name, what) not in EXCEPTIONS
    ]
    assert bad == []


def test_every_exception_is_still_needed() -> None:
    for (name, what), why in EXCEPTIONS.items():
        path = ROOT / name
        assert what in [each[0] for each in found(path, path.read_text(encoding="utf-8"))], (name, what)
        assert len(why) > 20


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import pickle as quiet",
        "from pickle import loads",
        "def f():\n    from joblib import load",
        "import tarfile",
        "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load",
        "subprocess.run('ls', shell=True)",
        "subprocess.Popen(command, shell=True)",
        "os.system(command)",
        "eval(text)",
        "exec(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=flag)",
        "requests.get(url, verify=False)",
    ],
)
def test_each_of_these_would_be_seen(text: str) -> None:
    assert list(found(Path("x.py"), text))


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "re.compile('x')",
        "np.load(path, allow_pickle=False)",
        "AutoModel.from_pretrained(path, trust_remote_code=False)",
        "subprocess.run(['ls', path], check=True)",
        "yaml.safe_load(text)",
    ],
)
def test_what_is_allowed_is_allowed(text: str) -> None:
    assert not list(found(Path("x.py"), text))
