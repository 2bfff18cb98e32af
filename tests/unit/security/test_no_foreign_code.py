"""A model from outside brings weights and settings, never code: no pickle under any name, no Python file."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from tasks.artefacts import open_store
from tasks.recipe.failures import ConfigInvalid
from tasks.runner.imports import import_model
from tasks.runner.settings import Settings


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "the-code-ran"


@pytest.fixture
def foreign(tmp_path: Path, tiny_model_dir: Path, mark: Path) -> Path:
    """A sound model folder with everything that could run beside it."""
    folder = tmp_path / "foreign"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    (folder / "training_args.pt").write_bytes(pickle.dumps(Bomb(mark)))
    (folder / "modeling_evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    return folder


def places(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", f"file://{tmp_path}/store", "")


def test_the_bomb_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))  # noqa: S301  otherwise these tests would prove nothing
    assert mark.exists()


def test_only_weights_and_settings_are_taken(foreign: Path, tmp_path: Path, mark: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    pinned = import_model(f"file://{foreign}", store, places(tmp_path))
    folder = store.local_path(f"artefacts/{pinned.digest}/files")
    assert folder is not None
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".jinja", ".txt", ".model"}
    assert not mark.exists()


def test_a_model_of_pickles_is_refused(foreign: Path, tmp_path: Path, mark: Path) -> None:
    for path in foreign.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ConfigInvalid, match="no pickles"):
        import_model(f"file://{foreign}", open_store(f"file://{tmp_path}/store"), places(tmp_path))
    assert not mark.exists()


@pytest.mark.parametrize("content", ["pickle", "list", "empty"])
def test_a_renamed_pickle_is_refused(foreign: Path, tmp_path: Path, mark: Path, content: str) -> None:
    data = {
        "pickle": pickle.dumps(Bomb(mark)),
        "list": (2).to_bytes(8, "little") + b"[]",
        "empty": b"",
    }[content]
    (foreign / "model.safetensors").chmod(0o644)
    (foreign / "model.safetensors").write_bytes(data)
    with pytest.raises(ConfigInvalid, match=r"model\.safetensors"):
        import_model(f"file://{foreign}", open_store(f"file://{tmp_path}/store"), places(tmp_path))
    from tasks.training.models import load_model

    with pytest.raises(ConfigInvalid, match="cannot be loaded"):
        load_model(foreign)
    assert not mark.exists()


@pytest.mark.parametrize("loader", ["models", "masked_models"])
def test_a_model_that_needs_code_of_its_own_is_refused_by_name(
    foreign: Path, mark: Path, loader: str
) -> None:
    """Even where the code lies beside it (nobody could import it so): nothing asks for it to be run."""
    from tasks.training import masked_models, models

    config = json.loads((foreign / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "architectures": ["EvilForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_evil.EvilConfig",
            "AutoModelForCausalLM": "modeling_evil.EvilForCausalLM",
            "AutoModelForMaskedLM": "modeling_evil.EvilForCausalLM",
        },
    }
    (foreign / "config.json").chmod(0o644)
    (foreign / "config.json").write_text(json.dumps(config))
    load = models.load_model if loader == "models" else masked_models.load_masked_model
    with pytest.raises(ConfigInvalid, match=r"auto_map.*never run"):
        load(foreign)
    assert not mark.exists()


def test_a_tokenizer_with_code_of_its_own_does_not_run_it(foreign: Path, mark: Path) -> None:
    from tasks.training.models import load_tokenizer

    path = foreign / "tokenizer_config.json"
    path.chmod(0o644)
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoTokenizer": ["modeling_evil.EvilTokenizer", "modeling_evil.EvilTokenizer"]}
    path.write_text(json.dumps(config))
    load_tokenizer(foreign)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../secrets/data", "json", "owner/../name", "owner/name/more", "/etc/name"])
def test_the_hub_is_asked_for_a_repository_only(name: str) -> None:
    from tasks.sources.hub import rows

    with pytest.raises(ConfigInvalid, match="names no dataset of the hub"):
        list(rows(f"hf://datasets/{name}", "documents", "all", {}))


def test_a_folder_of_that_name_is_not_read_in_the_hubs_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.sources.hub import rows

    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigInvalid, match="there is a folder 'owner/name' here"):
        list(rows("hf://datasets/owner/name", "documents", "all", {}))


@pytest.mark.parametrize("option", ["endpoint_url", "trust_remote_code", "data_files", "storage_options"])
@pytest.mark.parametrize("uri", ["file:///x.jsonl", "s3://bucket/x.jsonl", "hf://datasets/owner/name"])
def test_a_recipe_cannot_give_a_source_another_address_or_more_rights(uri: str, option: str) -> None:
    from tasks.sources import SCHEMES

    with pytest.raises(ConfigInvalid, match=option):
        list(SCHEMES[uri.partition(":")[0]](uri, "documents", "all", {option: "http://169.254.169.254"}))
