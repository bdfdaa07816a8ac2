"""Keys that sign the ledger: Ed25519, private halves in files that their owner alone may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, SSlibKey

LARGEST = 10_000
Signer, PublicKey = CryptoSigner, SSlibKey


class KeyFileError(ValueError):
    """A key file that cannot be used. The message says what was expected, received and what to do."""


def new(path: Path) -> CryptoSigner:
    """Writes a new private key to a file that does not exist, readable by its owner alone.

    Raises:
        KeyFileError: if something lies there already.
    """
    signer = CryptoSigner.generate_ed25519()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeyFileError(f"expected no file at {path}; received one; move it away, or name another place") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(signer.private_bytes)
    except OSError:  # a full disk: half a key is none
        path.unlink()
        raise
    return signer


def signer(path: Path) -> CryptoSigner:
    """The signer of a private key's file.

    Raises:
        KeyFileError: if the file is a link, can be read by others, is somebody else's, or holds no Ed25519 key in PEM.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(f"expected a file with a private key; received {path}, which is none; name the file itself")
    if found.st_mode & 0o077:
        raise KeyFileError(
            f"expected a private key that its owner alone may read; received {path} with permissions {found.st_mode & 0o777:o}; "
            f"call chmod 600 {path}"
        )
    if found.st_uid != os.geteuid():
        raise KeyFileError(
            f"expected a private key of this user; received {path}, which is another's; use a key of yours"
        )
    try:
        private = serialization.load_pem_private_key(_bytes(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "private") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return CryptoSigner(private)


def public(path: Path) -> SSlibKey:
    """The public key in a file.

    Raises:
        KeyFileError: if it holds no Ed25519 key in PEM.
    """
    try:
        found = serialization.load_pem_public_key(_bytes(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public") from error
    if not isinstance(found, Ed25519PublicKey):
        raise _no_key(path, "public")
    return SSlibKey.from_crypto(found)


def pem(key: SSlibKey) -> str:
    """A public key in PEM, as openssl and others read it."""
    found = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
    return found.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()  # fmt: skip


def _bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(LARGEST)


def _no_key(path: Path, kind: str) -> KeyFileError:
    return KeyFileError(
        f"expected an Ed25519 {kind} key in PEM; received {path}, which holds none; make one with otmf keys new"
    )
