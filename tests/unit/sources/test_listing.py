import boto3
import pytest
from moto import mock_aws

from tasks.recipe.failures import ConfigInvalid, DataInvalid, Infrastructure
from tasks.sources.files import rows
from tasks.sources.listing import list_files

NAMES = ["a.jsonl", "b.txt", "sub/c.jsonl", "sub/deep/d.jsonl", "_tmp/e.jsonl", ".f.jsonl"]
GLOBS = [
    ("", ["a.jsonl", "b.txt", "sub/c.jsonl", "sub/deep/d.jsonl"]),
    ("/*.jsonl", [".f.jsonl", "a.jsonl"]),
    ("/**/*.jsonl", [".f.jsonl", "_tmp/e.jsonl", "a.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"]),
    ("/sub/*.jsonl", ["c.jsonl"]),
    ("/[ab].*", ["a.jsonl", "b.txt"]),
    ("/[!b].jsonl", ["a.jsonl"]),
    ("/?.txt", ["b.txt"]),
    ("/sub", ["c.jsonl", "deep/d.jsonl"]),
    ("/sub/", ["c.jsonl", "deep/d.jsonl"]),
    ("/sub/c.jsonl", ["c.jsonl"]),
]


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def objects():
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for name in NAMES:
            client.put_object(Bucket="bucket", Key=f"data/{name}", Body=f'{{"text": "{name}"}}'.encode())
        client.put_object(Bucket="bucket", Key="database/other.jsonl", Body=b"{}")
        yield client


@pytest.mark.parametrize(("glob", "names"), GLOBS)
def test_local_files(tmp_path, glob, names):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = list_files(f"file://{tmp_path}{glob}")
    assert found.names == names
    with found.opened(names[0]) as path:
        assert path.read_text().endswith(names[0])


@pytest.mark.parametrize(("glob", "names"), GLOBS)
def test_objects_in_s3(objects, glob, names):
    found = list_files(f"s3://bucket/data{glob}")
    assert found.names == names
    with found.opened(names[0]) as path:
        assert names[0] in path.read_text()
    assert not path.exists()


def test_rows_from_s3(objects):
    assert list(rows("s3://bucket/data/*.jsonl", "documents", "all", {})) == [
        {"key": ".f.jsonl:1", "text": ".f.jsonl"},
        {"key": "a.jsonl:1", "text": "a.jsonl"},
    ]


@pytest.mark.parametrize(
    "uri", ["s3://bucket/nothing", "s3://bucket/data/*.parquet", "s3://no-such-bucket/x"]
)
def test_nothing_in_s3(objects, uri):
    with pytest.raises(DataInvalid, match=r"there is none|no file"):
        list_files(uri)


def test_an_object_that_went_away_is_named(objects):
    found = list_files("s3://bucket/data/a.jsonl")
    objects.delete_object(Bucket="bucket", Key="data/a.jsonl")
    with (
        pytest.raises(DataInvalid, match=r"s3://bucket/data/a\.jsonl: there is none"),
        found.opened("a.jsonl"),
    ):
        pass


def test_a_uri_without_a_bucket(objects):
    with pytest.raises(ConfigInvalid, match="names no bucket"):
        list_files("s3:///key")


def test_an_endpoint_that_does_not_answer_is_infrastructure(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Infrastructure, match="S3 cannot be reached"):
        list_files("s3://bucket/x")


@pytest.mark.parametrize("name", ["nothing.jsonl", "*.parquet", "no/such/folder/*.txt"])
def test_nothing_local(tmp_path, name):
    with pytest.raises(DataInvalid, match=r"no such file|no file matches"):
        list_files(f"file://{tmp_path}/{name}")
