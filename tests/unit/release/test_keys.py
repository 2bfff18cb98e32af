"""The keys that sign releases: made once, kept private, trusted by name."""

from __future__ import annotations

import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tasks.recipe.failures import ConfigInvalid
from tasks.release.keys import key_id, public_text, signing_key, trusted_keys

FOLDER = "file:///store"
SHARED = "s3://bucket/store"


@pytest.fixture(autouse=True)
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow here: this takes the place of the folder's fixture."""
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    for name in ("PERENNIAL_SIGNING_KEY", "PERENNIAL_TRUSTED_KEYS"):
        monkeypatch.delenv(name, raising=False)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def private(encryption: KeySerializationEncryption | None = None) -> bytes:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def test_a_laptop_makes_its_key_once_for_its_owner_only(tmp_path: Path) -> None:
    assert trusted_keys(FOLDER) == {}  # nothing was signed: nothing is trusted, and looking makes no key
    made = key_id(signing_key(FOLDER).public_key())
    assert key_id(signing_key(FOLDER).public_key()) == made
    assert list(trusted_keys(FOLDER)) == [made]
    path = tmp_path / "home" / "keys" / "signing.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["signing.pem"]


def test_two_processes_that_make_it_at_once_get_the_same() -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = [pool.submit(signing_key, FOLDER) for _ in range(16)]
    assert len({key_id(each.result().public_key()) for each in keys}) == 1


def test_a_shared_installation_must_be_given_its_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="PERENNIAL_SIGNING_KEY does not name"):
        signing_key(SHARED)
    with pytest.raises(ConfigInvalid, match="PERENNIAL_TRUSTED_KEYS does not name"):
        trusted_keys(SHARED)
    assert not (tmp_path / "home").exists()


def test_who_only_checks_needs_no_private_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Ed25519PrivateKey.generate().public_key(), Ed25519PrivateKey.generate().public_key()
    trusted = write(
        tmp_path / "trusted.pem", (public_text(one) + "# the new one\n" + public_text(other)).encode()
    )
    monkeypatch.setenv("PERENNIAL_TRUSTED_KEYS", str(trusted))
    assert set(trusted_keys(SHARED)) == {key_id(one), key_id(other)}


def test_a_key_that_nobody_trusts_signs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = write(tmp_path / "trusted.pem", public_text(Ed25519PrivateKey.generate().public_key()).encode())
    monkeypatch.setenv("PERENNIAL_SIGNING_KEY", str(write(tmp_path / "key.pem", private())))
    monkeypatch.setenv("PERENNIAL_TRUSTED_KEYS", str(trusted))
    with pytest.raises(ConfigInvalid, match="is not among the trusted ones"):
        signing_key(SHARED)


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "key.pem", private())
    monkeypatch.setenv("PERENNIAL_SIGNING_KEY", str(path))
    path.chmod(0o640)  # as Kubernetes mounts a secret of mode 0400 for a group
    signing_key(SHARED)
    path.chmod(0o644)
    with pytest.raises(ConfigInvalid, match=r"by everybody \(mode 0644\); chmod 600"):
        signing_key(SHARED)


EC = generate_private_key(SECP256R1())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no key", "no private key in PEM"),
        (private(BestAvailableEncryption(b"secret")), "without a password"),
        (EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "no Ed25519 key"),
    ],
)
def test_another_private_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str
) -> None:
    monkeypatch.setenv("PERENNIAL_SIGNING_KEY", str(write(tmp_path / "key.pem", data)))
    with pytest.raises(ConfigInvalid, match=words):
        signing_key(SHARED)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no public key"),
        (private(), "holds a PRIVATE KEY; only public keys"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "only Ed25519"),
    ],
)
def test_a_wrong_list_of_trusted_keys_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str
) -> None:
    monkeypatch.setenv("PERENNIAL_TRUSTED_KEYS", str(write(tmp_path / "trusted.pem", data)))
    with pytest.raises(ConfigInvalid, match=words):
        trusted_keys(SHARED)


@pytest.mark.parametrize("setting", ["PERENNIAL_SIGNING_KEY", "PERENNIAL_TRUSTED_KEYS"])
def test_a_missing_file_is_told_with_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(setting, str(tmp_path / "none.pem"))
    with pytest.raises(ConfigInvalid, match=f"{setting}: cannot read .*none.pem: No such file"):
        trusted_keys(SHARED)


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the commands of docs/security.md were not tried: install openssl"
)
def test_the_documented_commands_make_the_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "signing.pem")
    openssl("pkey", "-in", "signing.pem", "-pubout", "-out", "trusted.pem")
    (tmp_path / "signing.pem").chmod(0o600)
    monkeypatch.setenv("PERENNIAL_SIGNING_KEY", str(tmp_path / "signing.pem"))
    monkeypatch.setenv("PERENNIAL_TRUSTED_KEYS", str(tmp_path / "trusted.pem"))
    assert list(trusted_keys(SHARED)) == [key_id(signing_key(SHARED).public_key())]
