import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tasks.recipe.failures import ConfigInvalid, DataInvalid
from tasks.sources.hub import rows

URI = "hf://datasets/owner/name"


@pytest.fixture
def library(monkeypatch):
    """A stand-in for the `datasets` library, which the project does not install."""
    asked: dict[str, object] = {}

    def load_dataset(name, config, **options):
        asked.update(options, name=name, config=config)
        if name == "owner/missing":
            raise FileNotFoundError("no dataset 'owner/missing'")
        return [{"body": "one"}, {"body": "two"}]

    module = ModuleType("datasets")
    module.__version__ = "5.2.0"  # type: ignore[attr-defined]
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("datasets", loader=None)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return SimpleNamespace(asked=asked)


def test_rows_are_mapped_and_the_revision_is_passed_on(library):
    options = {"text_field": "body", "revision": "abc", "hub_split": "test", "config": "en"}
    assert list(rows(URI, "documents", "all", options)) == [
        {"key": "owner/name:1", "text": "one"},
        {"key": "owner/name:2", "text": "two"},
    ]
    assert library.asked == {
        "name": "owner/name", "config": "en", "revision": "abc", "split": "test", "streaming": True,
    }  # fmt: skip


def test_a_missing_field_names_the_row(library):
    with pytest.raises(DataInvalid, match="owner/name:1: field 'text' is missing"):
        list(rows(URI, "documents", "all", {}))


def test_an_unknown_dataset(library):
    with pytest.raises(ConfigInvalid, match="no dataset 'owner/missing'"):
        list(rows("hf://datasets/owner/missing", "documents", "all", {}))


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigInvalid, match="pip install 'datasets>=5'"):
        list(rows(URI, "documents", "all", {}))


@pytest.mark.parametrize("uri", ["hf://owner/name", "hf://datasets/"])
def test_a_uri_that_names_no_dataset(uri):
    with pytest.raises(ConfigInvalid, match="names no dataset of the hub"):
        list(rows(uri, "documents", "all", {}))
