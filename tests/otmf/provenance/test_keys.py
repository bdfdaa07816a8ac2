"""Keys: made for their owner alone, refused where others can read them, read by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from otmf.provenance import keys


def test_new_key_is_its_owners_alone_and_can_be_used_again(tmp_path) -> None:
    made = keys.new(tmp_path / "keys/mine.pem")
    assert (tmp_path / "keys/mine.pem").stat().st_mode & 0o777 == 0o600
    assert keys.signer(tmp_path / "keys/mine.pem").public_key == made.public_key
    (tmp_path / "mine.pub").write_text(keys.pem(made.public_key), encoding="utf-8")
    assert keys.public(tmp_path / "mine.pub") == made.public_key


def test_key_is_not_written_over_another(tmp_path) -> None:
    keys.new(tmp_path / "mine.pem")
    before = (tmp_path / "mine.pem").read_bytes()
    with pytest.raises(keys.KeyFileError, match="expected no file at"):
        keys.new(tmp_path / "mine.pem")
    assert (tmp_path / "mine.pem").read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o610, 0o666])
def test_key_that_others_may_touch_is_refused(tmp_path, mode) -> None:
    keys.new(tmp_path / "mine.pem")
    (tmp_path / "mine.pem").chmod(mode)
    with pytest.raises(keys.KeyFileError, match=rf"with permissions {mode:o}; call chmod 600"):
        keys.signer(tmp_path / "mine.pem")


def test_link_to_a_key_is_refused(tmp_path) -> None:
    keys.new(tmp_path / "mine.pem")
    (tmp_path / "link.pem").symlink_to(tmp_path / "mine.pem")
    with pytest.raises(keys.KeyFileError, match="which is none"):
        keys.signer(tmp_path / "link.pem")


def of_another_kind() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", of_another_kind()])  # fmt: skip
def test_file_without_a_key_of_the_right_kind_is_refused(tmp_path, content) -> None:
    path = tmp_path / "mine.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(keys.KeyFileError, match="expected an Ed25519 private key in PEM"):
        keys.signer(path)
    with pytest.raises(keys.KeyFileError, match="expected an Ed25519 public key in PEM"):
        keys.public(path)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_openssl_reads_both_halves(tmp_path: Path) -> None:
    made = keys.new(tmp_path / "mine.pem")
    said = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "mine.pem", "-pubout"], check=True, capture_output=True, text=True
    )
    assert said.stdout == keys.pem(made.public_key)
