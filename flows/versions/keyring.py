"""The keys that sign a line's ledger: where their private halves lie, which one is in force, which public ones are trusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.line import clones, landing, workspace
from flows.versions import history
from otmf.provenance import keys, ledger, statements
from otmf.runtime import layout

FOLDER = "OTMF_KEYS"


def folder(line: layout.Layout) -> Path:
    """Where private keys lie: OTMF_KEYS, else the line's private folder, which is neither versioned nor shared."""
    given = os.environ.get(FOLDER)
    return Path(given) if given else line.private / "keys"


def path(line: layout.Layout, keyid: str) -> Path:
    """The file of a private key; its public half lies beside it, ending in .pub."""
    return folder(line) / f"{keyid[:16]}.pem"


def signers(line: layout.Layout) -> list[keys.Signer]:
    """The signer of the key in force; none for a line whose ledger is unsigned.

    Raises:
        WorkspaceError, KeyFileError: if the ledger is signed and its key is not here, or cannot be used.
    """
    key = ledger.in_force(ledger.read(line.root))
    if key is None:
        return []
    found = path(line, key.keyid)
    if not found.exists():
        raise workspace.WorkspaceError(
            f"expected the private key {key.keyid[:16]}, which signs this line's ledger, at {found}; received none; bring it there, or name "
            f"its folder in {FOLDER}"
        )
    return [keys.signer(found)]


def trusted(line: layout.Layout, files: Sequence[Path]) -> list[keys.PublicKey]:
    """The public keys in some files, or (without) those that lie beside this line's private ones."""
    return [keys.public(found) for found in files or sorted(folder(line).glob("*.pub"))]


def new(
    line: layout.Layout, *, by: str | None, reason: str, log: Callable[[str], None], wait: float = 0
) -> keys.PublicKey:
    """Makes a key and lets it sign from here on; the ledger names it, signed by it and by the key in force so far.

    Raises:
        WorkspaceError, KeyFileError: if the key in force is not here, or the line cannot be changed now.
    """
    reason = history.reason(reason)
    with landing.turn(line, patience=wait, say=log):
        before = signers(line)
        part = folder(line) / f".new-{os.getpid()}"
        made = keys.new(part)
        key, at = made.public_key, path(line, made.public_key.keyid)
        part.rename(at)
        try:
            clone = clones.begin(line, "_key", outputs=False)
            ledger.append(clone.root, _announcing(key, by or history.actor(), reason), [made, *before])
            workspace.commit(clone.root, f"Sign the ledger with {key.keyid[:16]}\n\n{reason}")
            at.with_suffix(".pub").write_text(keys.pem(key), encoding="utf-8")
        except BaseException:  # nobody knows the key yet
            for half in (at, at.with_suffix(".pub")):
                half.unlink(missing_ok=True)
            raise
        try:
            trouble = landing.land(line, clone, outputs=False)
        except BaseException:  # the private half stays, as the git remote may know the key; nobody is to trust it before it is in the ledger
            if not landing.unfinished(line):  # else whoever comes next may complete it
                at.with_suffix(".pub").unlink(missing_ok=True)
            raise
    if trouble:
        log(trouble)
    return key


def _announcing(key: keys.PublicKey, by: str, reason: str) -> Callable[[statements.Place], statements.Statement]:
    pem, at = keys.pem(key), datetime.now(UTC)
    subject = statements.Resource(name=f"key {key.keyid}", digest={"sha256": key.keyid})
    decision = statements.Decision(action="key", sha256=key.keyid, by=by, reason=reason, at=at)
    return lambda place: statements.Statement(
        subject=[subject],
        predicateType=statements.DECISION,
        predicate=statements.Decided(otmf_decision=decision, otmf_ledger=place, key=pem),
    )
