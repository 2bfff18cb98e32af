from __future__ import annotations

from pathlib import Path

import pytest

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check
from tasks.recipe.corpora import find_corpus, folder, read_corpora, read_corpus
from tasks.recipe.failures import ConfigInvalid

GOOD = "corpus: news\nuri: s3://bucket/news/\nlimits: {jensen_shannon: 0.3}\n"


def test_the_shipped_corpora_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERENNIAL_CORPORA", raising=False)
    monkeypatch.delenv("PERENNIAL_RECIPES", raising=False)
    found, problems = read_corpora()
    assert problems == []
    assert found["pydocs"].asset == "corpus/pydocs"  # what the demo's recipe waits for


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("uri: x\ncorpus: News\n", "corpus: string pattern mismatch"),
        ("corpus: news\n", "uri: missing"),
        (GOOD + "crom: 1\n", "did you mean 'cron'"),
        (GOOD + 'cron: "61 * * * *"\n', "cron"),
        (GOOD + "settle_minutes: -1\n", "settle_minutes"),
        (GOOD.replace("jensen_shannon: 0.3", "jensen: 0.3"), "limits.jensen"),
        ("corpus: news\nuri: corpus://other\n", "made of files"),
        ("- news\n", "the file"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "news.yaml"
    path.write_text(line)
    with pytest.raises(ConfigInvalid) as refused:
        read_corpus(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


def test_one_broken_file_takes_no_other_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("corpus: 1\n")
    (tmp_path / "c.yaml").write_text(GOOD)
    found, problems = read_corpora(tmp_path)
    assert list(found) == ["news"]
    assert len(problems) == 2
    assert "another file describes 'news' already" in problems[1]
    monkeypatch.setenv("PERENNIAL_CORPORA", str(tmp_path))
    assert find_corpus("news").limits.jensen_shannon == 0.3
    with pytest.raises(ConfigInvalid, match="did you mean 'news'"):
        find_corpus("new")


def test_the_folder_lies_beside_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_RECIPES", "/srv/recipes")
    monkeypatch.delenv("PERENNIAL_CORPORA", raising=False)
    assert folder() == Path("/srv/recipes/corpora")
    monkeypatch.setenv("PERENNIAL_CORPORA", "/srv/corpora")
    assert folder() == Path("/srv/corpora")


RECIPE = """
recipe: small
model: small
budget: {{device_hours: 2.5}}
data:
  news: {{uri: "{uri}", kind: documents}}
steps:
  blank: {{stage: pretrain, method: scratch, inputs: {{documents: data.news}}, options: {{vocab_size: 512}}}}
"""


def test_a_recipe_reads_slices_of_a_corpus() -> None:
    for uri in (
        "corpus://news",
        "corpus://news@latest",
        "corpus://news@2026-01-05",
        "corpus://news@..2026-01-05",
    ):
        assert check(RECIPE.format(uri=uri), Catalogue.load()).problems == []
    [problem] = check(RECIPE.format(uri="corpus://news@newest"), Catalogue.load()).problems
    assert "names no slices" in problem.message


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("budget: {}", "limits nothing"),
        ("budget: {device_hours: 0}", "greater than 0"),
        ("budget: {hours: 1}", "unknown key 'hours'"),
        ('budget: {cost: "1"}', "is not a number"),
    ],
)
def test_a_budget_is_checked(budget: str, words: str) -> None:
    text = RECIPE.format(uri="corpus://news").replace("budget: {device_hours: 2.5}", budget)
    [problem] = check(text, Catalogue.load()).problems
    assert words in problem.message
    assert problem.key.startswith("budget")


def test_a_budget_can_be_set_for_one_run() -> None:
    text = RECIPE.format(uri="corpus://news").replace("budget: {device_hours: 2.5}\n", "")
    found = check(text, Catalogue.load(), ["budget.cost=3.5"])
    assert found.problems == []
    assert found.recipe is not None
    assert found.recipe.budget is not None
    assert found.recipe.budget.cost == 3.5
    [problem] = check(text, Catalogue.load(), ["budget.costs=3.5"]).problems
    assert "there is no key 'costs'" in problem.message
