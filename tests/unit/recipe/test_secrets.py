"""Secrets are found by their shape, by their setting's name, and by being in the environment; text stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.recipe.catalogue import Catalogue
from tasks.recipe.check import check, format_problems
from tasks.recipe.secrets import SHAPES, environment_secrets, kind_of_secret, mask, secrets_in

# Made up, and cut in two, so that no scanner of repositories takes them for real ones.
SECRETS = {
    "a private key": "-----BEGIN " + "PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----",
    "an AWS access key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a GitLab token": "glpat-" + "a1B2_" * 4,
    "a Google key": "AIza" + "a1B2-" * 7,
    "a Hugging Face token": "hf_" + "aB3d" * 8,
    "a Slack token": "xoxb-" + "1234567890-abc",
    "an API key": "sk-" + "proj-a1b2c3d4e5f6g7h8i9",
    "a JSON web token": "eyJhbGciOiJI" + ".eyJzdWIiOiIx" + ".SflKxwRJSMeKKF2QT4",
    "an authorization": "Authorization: Bearer " + "abcdef0123456789abcdef",
    "a password in a URL": "postgresql://mlflow:" + "hunter2@db:5432/mlflow",
    "a signed URL": "https://b.s3.amazonaws.com/k?X-Amz-Signature=" + "0123456789abcdef",
}

INNOCENT = [
    "loss 2.31, 5,120 tokens/s, token_weighted: true, max_tokens=256, tokenizer=tokenizer.json",
    "news.bits_per_byte 1.93 -> 1.72, key: docs/a.md:12, bos_token: <s>",
    "s3://bucket/a:b/c@v2.jsonl file:///data/news.jsonl hf://owner/name@main models:/pydocs@champion",
    "http://127.0.0.1:5000/#/models/pydocs https://host/path?sig=1",
    "a digest " + "0123456789abcdef" * 4 + " and the options disk-based-merging-of-many-models",
    "task-of-the-quick-brown-fox-number-12345678",
]


@pytest.mark.parametrize("kind", SHAPES)
def test_every_shape_is_found_and_masked(kind: str) -> None:
    text = f"before {SECRETS[kind]} after"
    assert kind_of_secret(text) == kind
    masked = mask(text)
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert "***" in masked
    assert not kind_of_secret(masked)


def test_what_is_around_a_secret_stays_readable() -> None:
    assert (
        mask("postgresql+psycopg2://mlflow:hunter2@db:5432/mlflow")
        == "postgresql+psycopg2://***@db:5432/mlflow"
    )
    assert mask("https://token@git.example/x") == "https://***@git.example/x"
    assert mask("Authorization: Basic dXNlcjpwYXNz") == "Authorization: Basic ***"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = ***"),
        ('{"password": "hunter22", "user": "ada"}', '{"password": "***", "user": "ada"}'),
        ("MLFLOW_TRACKING_TOKEN=abcd1234 MLFLOW_TRACKING_URI=http://x", "MLFLOW_TRACKING_TOKEN=*** MLFLOW_TRACKING_URI=http://x"),
        ("client_secret: abcd1234", "client_secret: ***"),
    ],
)  # fmt: skip
def test_a_setting_named_like_a_secret_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize("text", INNOCENT)
def test_ordinary_output_is_left_alone(text: str) -> None:
    assert mask(text) == text
    assert kind_of_secret(text) == ""


def test_values_of_the_environment_are_masked_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "correct horse battery")
    monkeypatch.setenv("TEAM_PASSWORD", "correct horse battery staple")
    assert mask("it said: correct horse battery staple!") == "it said: ***!"
    assert kind_of_secret("a correct horse battery") == "a secret of this process's environment"


def test_which_variables_hold_secrets(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch()
    environment = {
        "MLFLOW_TRACKING_PASSWORD": "abcdefgh",
        "AIRFLOW__CORE__FERNET_KEY": "ijklmnop",
        "DEPLOY_KEY": "first line of it\nsecond line of it\n--",
        "PERENNIAL_SIGNING_KEY": str(key),
        "SHORT_TOKEN": "test",
        "TOKENIZERS_PARALLELISM": "falsefalse",
        "PERENNIAL_STORE": "s3://bucket/store",
        "KEYBOARD": "qwertyuiop",
        "AIRFLOW_CONN_PAGER": "h://:p@pager",
    }
    found = environment_secrets(environment)
    assert found[0] == "second line of it"  # the longest first: what holds another is masked whole
    assert set(found) == {"first line of it", "second line of it", "abcdefgh", "ijklmnop", "h://:p@pager"}


def test_where_in_a_recipe_a_secret_stands() -> None:
    value = {"data": {"news": {"uri": "x"}}, "tags": ["a", SECRETS["an AWS access key"]]}
    assert list(secrets_in(value)) == [(("tags", 1), "an AWS access key")]


RECIPE = """\
recipe: small
model: small
description: "{secret}"
data:
  news: {{uri: "file:///data/news.jsonl", kind: documents}}
steps:
  base: {{stage: pretrain, method: scratch, inputs: {{documents: data.news}}}}
"""


def test_a_recipe_with_a_secret_is_refused_with_its_line_and_without_the_secret() -> None:
    secret = SECRETS["a Hugging Face token"]
    checked = check(RECIPE.format(secret=secret), Catalogue.load())
    assert checked.recipe is None
    words = format_problems(checked.problems)
    assert ":3:1: description: this looks like a Hugging Face token" in words
    assert secret not in words


def test_an_override_with_a_secret_is_refused_and_not_repeated() -> None:
    secret = SECRETS["a GitHub token"]
    checked = check(RECIPE.format(secret="fine"), Catalogue.load(), [f"steps.base.options.lr={secret}"])
    words = format_problems(checked.problems)
    assert "steps.base.options.lr: this looks like a GitHub token" in words
    assert secret not in words


def test_a_recipe_about_passwords_is_no_secret() -> None:
    assert check(RECIPE.format(secret="the password: see the vault"), Catalogue.load()).problems == []
