"""Places are allowed by scheme and prefix; neither dots, nor neighbours, nor links lead out of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tasks.recipe.failures import ConfigInvalid
from tasks.recipe.uris import ALLOWED, SCHEMES, check_path, check_place, local_mode, refusal

PREFIXES = "s3://corpora/public, hf://datasets/acme,file:///data/shared/"


@pytest.fixture(autouse=True)
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERENNIAL_STORE", raising=False)
    monkeypatch.delenv(ALLOWED, raising=False)


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/iam",  # the cloud's own credentials
        "https://example.com/data.jsonl",
        "ftp://host/data",
        "gopher://host",
        "jar:file:///x!/y",
        "S3://bucket/key",
        "FILE:///etc/passwd",
        " file:///etc/passwd",
        "data:text/plain,x",
        "/etc/passwd",
        "mlflow-artifacts:/x",
        "perennial-file:///store",
        "",
    ],
)
def test_other_schemes_are_refused(uri: str) -> None:
    assert "they begin with s3://, file://, hf://, pydocs://, corpus://, models:/" in refusal(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///data/../etc/passwd",
        "file:///data/%2e%2e/etc/passwd",
        "file:///data/..%2fetc/passwd",
        "file:///data/./news",
        "s3://bucket/public/../private",
        "hf://datasets/../secrets",
        "file:///data\\..\\etc",
        "file:///data/a\nb",
        "file://relative/path",
        "file://host/share",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(uri: str) -> None:
    assert refusal(uri)


@pytest.mark.parametrize(
    "uri", ["s3://b/k/*.jsonl", "file:///data/a..b.jsonl", "hf://datasets/o/n", "pydocs://chats"]
)
def test_without_prefixes_a_laptop_reads_every_scheme(uri: str) -> None:
    assert refusal(uri) == ""


def test_a_shared_installation_reads_no_local_files_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_mode()
    monkeypatch.setenv("PERENNIAL_STORE", "s3://bucket/store")
    assert not local_mode()
    assert "a file of the machine that plans" in refusal("file:///run/secrets/token.txt")
    assert refusal("s3://bucket/key") == ""
    monkeypatch.setenv(ALLOWED, PREFIXES)
    assert refusal("file:///data/shared/news.jsonl") == ""


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://corpora/public", True),
        ("s3://corpora/public/news/*.jsonl", True),
        ("s3://corpora/public-not/news", False),
        ("s3://corpora/p*/news", False),
        ("s3://corpora", False),
        ("s3://other/public/news", False),
        ("hf://datasets/acme/news", True),
        ("hf://datasets/acme-evil/news", False),
        ("file:///data/shared/x.jsonl", True),
        ("file:///data/sharedx/x.jsonl", False),
        ("file:///etc/passwd", False),
        ("pydocs://chats", True),
        ("models:/pydocs@champion", True),
    ],
)
def test_prefixes_end_at_a_segment(monkeypatch: pytest.MonkeyPatch, uri: str, allowed: bool) -> None:
    monkeypatch.setenv(ALLOWED, PREFIXES)
    assert (refusal(uri) == "") is allowed


@pytest.mark.parametrize("prefix", ["corpora/public", "http://x", "pydocs://", "file:///data/../etc"])
def test_a_prefix_that_limits_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv(ALLOWED, prefix)
    with pytest.raises(ConfigInvalid, match=ALLOWED):
        refusal("s3://bucket/key")


segments = st.text(alphabet="ab.%2ef/\\*\x00~", max_size=12)


@given(st.lists(segments, max_size=4))
def test_no_allowed_file_lies_outside_of_its_prefix(parts: list[str]) -> None:
    uri = "file:///data/shared/" + "/".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ALLOWED, "file:///data/shared")
        if refusal(uri) == "":
            assert Path(uri.removeprefix("file://")).resolve().is_relative_to("/data/shared")


@given(st.text(max_size=30))
def test_only_the_table_of_schemes_is_read(text: str) -> None:
    if refusal(text) == "":
        assert text.startswith(tuple(SCHEMES))


def test_a_link_does_not_lead_out_of_the_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "shared" / "news.txt").symlink_to(tmp_path / "secret.txt")
    check_path(tmp_path / "shared" / "news.txt")  # nothing is limited
    monkeypatch.setenv(ALLOWED, f"file://{tmp_path}/shared")
    with pytest.raises(ConfigInvalid, match=r"news\.txt' leads to .*secret\.txt"):
        check_path(tmp_path / "shared" / "news.txt")
    monkeypatch.setenv(ALLOWED, f"file://{tmp_path}/shared,file://{tmp_path}/secret.txt")
    check_path(tmp_path / "shared" / "news.txt")


def test_a_recipe_is_told_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, PREFIXES)
    text = (
        "recipe: small\nmodel: small\ndata:\n  news: {uri: 's3://other/news', kind: documents}\n"
        "steps:\n  base: {stage: pretrain, method: scratch, inputs: {documents: data.news}}\n"
    )
    words = format_problems(check(text, Catalogue.load()).problems)
    assert ":4:10: data.news.uri: 's3://other/news' is not among the places this installation reads" in words


def test_check_place_raises_the_words() -> None:
    with pytest.raises(ConfigInvalid, match="no absolute path"):
        check_place("file://x")
