"""A version's files in a clone of their own, and what the ledger says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.dvc import cache, commands
from flows.line import clones, workspace
from flows.versions import accepted_models, history
from otmf.provenance import ledger
from otmf.runtime import layout


def files(records: Sequence[ledger.Record], record: ledger.Record) -> dict[str, str]:
    """Path -> sha256, of all files that predictions with an accepted model are made with, as recorded when each was made last."""
    step, where = record.statement.decision.step, layout.Layout(Path())
    wanted = (
        where.merged(step) / "model.safetensors",
        where.heads(step),
        where.pretrained / "backbone.json",
        where.pretrained / "tokenizer.json",
        where.params,
    )
    return {name: sha256 for path in wanted for name, sha256 in _below(records, record, path.as_posix()).items()}


def clone(line: layout.Layout, number: int) -> layout.Layout:
    """The line at a version, with the files that predictions are made with.

    Raises:
        WorkspaceError: if there is no such version, or DVC's cache has not all of it.
    """
    found = clones.at(line, history.commit(line.root, number), f"v{number}")
    names = _wanted(line, number)
    if not all((found.root / name).exists() for name in names):  # the cache had less when the clone was made
        commands.checkout(found.root)
    for name in names:
        if not (found.root / name).exists():
            raise workspace.WorkspaceError(
                f"expected {name} of v{number} in DVC's cache; received nothing; fetch it with `dvc pull` in {line.root}"
            )
    return found


def require(line: layout.Layout, found: layout.Layout, number: int) -> None:
    """Compares those files in a version's clone with what the version's record says.

    Raises:
        WorkspaceError: if others than were recorded lie there.
    """
    for name, wanted in _wanted(line, number).items():
        received = cache.Reader().path(found.root / name)
        if received != wanted:
            raise workspace.WorkspaceError(
                f"expected {name} of v{number} with sha256 {wanted[:16]}; received {received[:16]}; see what `otmf verify` says"
            )


def _wanted(line: layout.Layout, number: int) -> dict[str, str]:
    records = ledger.read(line.root)
    history.find([record.statement.decision for record in accepted_models.models(records).values()], number)
    return files(records, accepted_models.models(records)[number])


def _below(records: Sequence[ledger.Record], last: ledger.Record, path: str) -> dict[str, str]:
    """File -> sha256 of what an accepted model has at or below a path, as recorded when that was made last."""
    found: dict[str, str] = {}
    for record in accepted_models.until(records, last):
        named = accepted_models.named(record).items()
        found = {name: sha256 for name, sha256 in named if name == path or name.startswith(f"{path}/")} or found
    return found
