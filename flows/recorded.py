"""A version's files in a clone of their own, and what the ledger says of them."""

from __future__ import annotations

from collections.abc import Sequence

from flows import accepted, contents, repro, versions, workspace
from otmf import layout, ledger, settings


def clone(line: layout.Layout, number: int) -> layout.Layout:
    """The line at a version, with what it ends with: encoder and heads.

    Raises:
        WorkspaceError: if DVC's cache has not all of it.
    """
    found = workspace.at(line, versions.commit(line.root, number), f"v{number}")
    names = _names(found)
    if not all((found.root / name).exists() for name in names):  # the cache had less when the clone was made
        repro.checkout(found.root)
    for name in names:
        if not (found.root / name).exists():
            raise workspace.WorkspaceError(
                f"expected {name} of v{number} in DVC's cache; received nothing; fetch it with `dvc pull` in {line.root}"
            )
    return found


def digests(records: Sequence[ledger.Record], record: ledger.Record) -> dict[str, str]:
    """Path -> sha256, of all that the stages of a version wrote."""
    known: dict[str, str] = {}
    for stage in accepted.recorded(records, record).values():
        known |= {path: output.sha256 for path, output in stage.outputs.items()}
    return known


def require(line: layout.Layout, found: layout.Layout, number: int) -> None:
    """Compares encoder and heads in a version's clone with what the version's record says.

    Raises:
        WorkspaceError: if there is no such version, or others than were recorded lie there.
    """
    records = ledger.read(line.root)
    known = digests(records, accepted.models(records)[number])
    for name in _names(found):
        received = contents.Reader().path(found.root / name)
        if received != known[name]:
            raise workspace.WorkspaceError(
                f"expected {name} of v{number} with sha256 {known[name][:16]}; received {received[:16]}; see what `otmf verify` says"
            )


def _names(found: layout.Layout) -> list[str]:
    last = settings.chain(workspace.params(found).steps)[-1]
    return [path.relative_to(found.root).as_posix() for path in (found.merged(last), found.heads(last))]
