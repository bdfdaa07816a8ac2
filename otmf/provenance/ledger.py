"""The ledger of a line: one signed record per decision, each with the hash of the one before. Only appended to.

A record is a file `data/lineage/NNNNNN.json`, a DSSE envelope around an in-toto Statement. Which key signs stands in the
ledger itself: a record of action `key` names the key of all that follow and is signed by it and by the one before. Whoever
trusts any one of these keys can check all of it: later keys by the signature of the one before, earlier records by hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from otmf.provenance.statements import PAYLOAD, START, Place, Statement

FOLDER = "data/lineage"
LARGEST = 64 * 2**20


class LedgerError(ValueError):
    """A ledger that does not hold up. The message says what was expected, received and what to do."""


@dataclass(frozen=True)
class Record:
    """One record as it lies on disk.

    Attributes:
        name: of its file.
        content: of its file.
        envelope, statement: what that says.
    """

    name: str
    content: bytes
    envelope: Envelope
    statement: Statement

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def index(self) -> int:
        return self.statement.place.index

    def signed_by(self, key: SSlibKey) -> bool:
        """Whether a key's signature on the record holds."""
        try:
            self.envelope.verify([key], 1)
        except VerificationError:
            return False
        return True

    def announced(self) -> SSlibKey | None:
        """The key that signs from this record on, if it names one."""
        pem = getattr(self.statement.predicate, "key", None)
        return None if pem is None else _key(self.name, pem)


def name(index: int) -> str:
    """The file of a record."""
    return f"{index:06d}.json"


def load(path: Path) -> Record:
    """One record, checked by itself: its form, and that its bytes are the only way to write it.

    Raises:
        LedgerError: if it does not hold up.
    """
    if path.is_symlink() or not path.is_file():
        raise LedgerError(f"expected a record in {path.name}; received no file of its own; restore it from git")
    with path.open("rb") as stream:
        content = stream.read(LARGEST)
    try:
        envelope = Envelope.from_dict(json.loads(content))
        statement = Statement.model_validate_json(envelope.payload)
        same = _written(envelope) == content and envelope.payload_type == PAYLOAD
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(
            f"expected a DSSE envelope with a statement in {path.name}; received one that does not parse "
            f"({' '.join(str(error).split())[:120]}); restore it from git"
        ) from error
    if not same or _payload(statement) != envelope.payload:
        raise LedgerError(
            f"expected {path.name} as otmf writes it; received other bytes that read the same; restore it from git"
        )
    return Record(path.name, content, envelope, statement)


def files(root: Path) -> list[Path]:
    """What lies in the ledger's folder, in order."""
    folder = root / FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def read(root: Path) -> list[Record]:
    """All records, oldest first, their chain checked; not their signatures.

    Raises:
        LedgerError: for the first thing that does not hold up.
    """
    found: list[Record] = []
    for path in files(root):
        found.append(load(path))
        trouble = broken_link(found)
        if trouble:
            raise LedgerError(trouble)
    return found


def broken_link(records: Sequence[Record]) -> str | None:
    """What is wrong between the last of some records and the one before it; None if nothing is."""
    last, place = records[-1], records[-1].statement.place
    if last.name != name(len(records)) or place.index != len(records):
        return (
            f"expected record {len(records)} in {name(len(records))}; received record {place.index} in {last.name}; "
            "restore the folder from git"
        )
    before = records[-2].sha256 if len(records) > 1 else START
    if place.previous != before:
        return f"expected {last.name} to follow a file with sha256 {before[:12]}; received {place.previous[:12]}; restore both from git"
    return None


def in_force(records: Sequence[Record]) -> SSlibKey | None:
    """The key that the next record is to be signed with; None while the ledger is unsigned."""
    for record in reversed(records):
        key = record.announced()
        if key is not None:
            return key
    return None


def append(root: Path, write: Callable[[Place], Statement], signers: Sequence[CryptoSigner]) -> Record:
    """Adds one record; of two who try at once, one fails.

    Args:
        root: the line's folder.
        write: makes the statement for its place in the chain.
        signers: of the key in force; of a new key as well, if the record names it. Empty for an unsigned ledger.

    Raises:
        LedgerError: if the ledger does not hold up, somebody else was faster, or the key in force is not among the signers'.
    """
    records = read(root)
    key = in_force(records)
    if key is not None and key.keyid not in {signer.public_key.keyid for signer in signers}:
        raise LedgerError(
            f"expected the key {key.keyid[:12]}, with which this ledger is signed; received "
            f"{', '.join(signer.public_key.keyid[:12] for signer in signers) or 'none'}; name its file in OTMF_SIGNING_KEY"
        )
    statement = write(Place(index=len(records) + 1, previous=records[-1].sha256 if records else START))
    envelope = Envelope(_payload(statement), PAYLOAD, {})
    for signer in signers:
        envelope.sign(signer)
    path = root / FOLDER / name(len(records) + 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(_written(envelope))
        os.chmod(part, 0o644)
        os.link(part, path)  # whole, and only where nothing lies
    except FileExistsError as error:
        raise LedgerError(
            f"expected to write record {len(records) + 1}; received one that somebody wrote in the meantime; do it again"
        ) from error
    finally:
        os.unlink(part)
    return load(path)


def signatures(records: Sequence[Record], trusted: Sequence[SSlibKey]) -> Iterator[tuple[Record, str | None]]:
    """Each record and what is wrong with its signatures: None, `unsigned`, or a sentence.

    A record is to be signed by the key in force, one that names a new key by that one too. Keys count if one of the trusted is
    among them, or leads to them: from the record on that names it, and backwards by the hashes.
    """
    known = {key.keyid for key in trusted}
    named = [record.announced() for record in records]
    first = next((number for number, key in enumerate(named) if key is not None and key.keyid in known), None)
    force: SSlibKey | None = None
    for record, new in zip(records, named, strict=True):
        wanted = [key for key in (force, new) if key is not None]
        force = new or force
        missing = [key.keyid[:12] for key in wanted if not record.signed_by(key)]
        strangers = set(record.envelope.signatures) - {key.keyid for key in wanted}
        if missing or strangers:
            yield (
                record,
                (
                    f"expected {record.name} signed by {', '.join(key.keyid[:12] for key in wanted) or 'nobody'}; received a signature "
                    f"of {', '.join(one[:12] for one in record.envelope.signatures) or 'nobody'} that does not hold; restore it from git"
                ),
            )
        elif not wanted:
            yield record, "unsigned"
        elif first is None:
            yield (
                record,
                (
                    f"expected a key you trust ({', '.join(key[:12] for key in sorted(known)) or 'none was given'}); received {record.name} "
                    f"signed by {wanted[-1].keyid[:12]}; name the right public key with --key"
                ),
            )
        else:
            yield record, None


def _payload(statement: Statement) -> bytes:
    content = statement.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _written(envelope: Envelope) -> bytes:
    return (json.dumps(envelope.to_dict(), indent=1, sort_keys=True) + "\n").encode()


def _key(record: str, pem: str) -> SSlibKey:
    try:
        found = serialization.load_pem_public_key(pem.encode())
    except ValueError as error:
        raise LedgerError(f"expected a public key in {record}; received none; restore it from git") from error
    if not isinstance(found, Ed25519PublicKey):
        raise LedgerError(f"expected an Ed25519 key in {record}; received another kind; restore it from git")
    return SSlibKey.from_crypto(found)
