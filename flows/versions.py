"""Versions of a line's model: which serves, which served before, and who decided so. One file in git, only appended to.

Each accepted model is a version with a tag of its own on the commit that made it. The last entries say which version is
the champion; MLflow's aliases follow this file, not the other way round.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from flows import workspace
from otmf import layout, lineage

FILE = "data/history.jsonl"
ACTOR = "OTMF_ACTOR"


class Entry(BaseModel):
    """One decision.

    Attributes:
        action: accepted by the gate, overridden against it, rolled back to an earlier version.
        version: the champion from here on.
        step, task: what the version ends with.
        sha256: of its encoder's file.
        by, reason: who decided, and why; the gate where no person did.
        at: when, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["accepted", "overridden", "rolled_back"]
    version: int
    step: str
    task: str
    sha256: str
    by: str
    reason: str
    at: datetime


def history(root: Path) -> list[Entry]:
    """All entries, oldest first.

    Raises:
        WorkspaceError: if the file does not hold up.
    """
    path = root / FILE
    if not path.exists():
        return []
    try:
        return [Entry.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise workspace.WorkspaceError(
            f"expected one decision per line in {FILE}; received one that does not parse ({str(error).splitlines()[0]}); "
            "restore the file from git"
        ) from error


def champion(entries: Sequence[Entry]) -> Entry | None:
    """The version that serves."""
    return entries[-1] if entries else None


def previous(entries: Sequence[Entry]) -> Entry | None:
    """The version that served before the champion, which a rollback returns to."""
    others = [entry for entry in entries if entry.version != entries[-1].version]
    return others[-1] if others else None


def find(entries: Sequence[Entry], version: int) -> Entry:
    """The entry that made a version.

    Raises:
        WorkspaceError: if there is none.
    """
    for entry in entries:
        if entry.version == version:
            return entry
    known = ", ".join(f"v{number}" for number in sorted({entry.version for entry in entries})) or "none yet"
    raise workspace.WorkspaceError(
        f"expected a version of this line ({known}); received v{version}; choose one of them"
    )


def accept(clone: layout.Layout, *, action: str, step: str, task: str, by: str, reason: str) -> Entry:
    """Appends a new version to the file of a clone, to be committed with what it is about."""
    entry = Entry(
        action=action,
        version=max((entry.version for entry in history(clone.root)), default=0) + 1,
        step=step,
        task=task,
        sha256=lineage.digest(clone.merged(step) / "model.safetensors"),
        by=by,
        reason=reason,
        at=datetime.now(UTC),
    )
    _append(clone, entry)
    return entry


def roll_back(clone: layout.Layout, version: int | None, *, by: str, reason: str) -> Entry:
    """Appends the return to an earlier version (the one that served before, unless named) to the file of a clone.

    Raises:
        WorkspaceError: if there is no such version, or it serves already.
    """
    entries = history(clone.root)
    before = previous(entries) if version is None else find(entries, version)
    if before is None:
        raise workspace.WorkspaceError(
            "expected a version that served before the present one; received a line without; name one with otmf status"
        )
    if before.version == entries[-1].version:
        raise workspace.WorkspaceError(
            f"expected another version than the one that serves; received v{before.version}; there is nothing to do"
        )
    entry = before.model_copy(update={"action": "rolled_back", "by": by, "reason": reason, "at": datetime.now(UTC)})
    _append(clone, entry)
    return entry


def _append(clone: layout.Layout, entry: Entry) -> None:
    path = clone.root / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(entry.model_dump_json() + "\n")


def tag(version: int) -> str:
    """The git tag of a version's commit."""
    return f"model/v{version}"


def actor() -> str:
    """Who decides: OTMF_ACTOR, else the user of this process."""
    return os.environ.get(ACTOR) or getpass.getuser()


def describe(entry: Entry) -> str:
    """One line about a version."""
    return f"v{entry.version} ({entry.step}, {entry.task}; {entry.action.replace('_', ' ')} by {entry.by})"
