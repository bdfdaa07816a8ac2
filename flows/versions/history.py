"""Versions of a line's model: which serves, which served before, and who decided so; read from the ledger.

Each accepted model is a version with a tag of its own on the commit that recorded it. The last decision about a version says
which one is the champion; MLflow's aliases follow the ledger, not the other way round.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.line import workspace
from flows.programs import git
from otmf.provenance import digests, ledger
from otmf.provenance.statements import Action, Decision, Finding
from otmf.runtime import layout

ACTOR = "OTMF_ACTOR"


def decisions(root: Path) -> list[Decision]:
    """All decisions that let a version serve, oldest first.

    Raises:
        LedgerError: if the ledger does not hold up.
    """
    return [record.statement.decision for record in ledger.read(root) if record.statement.decision.version is not None]


def champion(entries: Sequence[Decision]) -> Decision | None:
    """The version that serves."""
    return entries[-1] if entries else None


def previous(entries: Sequence[Decision]) -> Decision | None:
    """The version that served before the champion, which a rollback returns to."""
    others = [entry for entry in entries if entry.version != entries[-1].version]
    return others[-1] if others else None


def find(entries: Sequence[Decision], version: int) -> Decision:
    """The decision that made a version.

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


def chosen(line: layout.Layout, name: str | None) -> int:
    """The number of a version named as `v3`; of the champion without a name.

    Raises:
        WorkspaceError: if the name is none, or no version serves.
    """
    if name:
        return number(name)
    serving = champion(decisions(line.root))
    if serving is None:
        raise workspace.WorkspaceError("expected a line with a version; received one without; onboard a task first")
    return serving.version


def accepted(
    clone: layout.Layout,
    *,
    action: Action,
    step: str,
    task: str,
    by: str,
    reason: str,
    findings: Sequence[Finding] = (),
    version: bool = True,
) -> Decision:
    """What was decided about the model that a clone ends with: a new version, or (`version` False) none."""
    number = max((entry.version for entry in decisions(clone.root)), default=0) + 1
    return Decision(
        action=action,
        version=number if version else None,
        step=step,
        task=task,
        sha256=digests.digest(clone.merged(step) / "model.safetensors"),
        by=by,
        reason=reason,
        at=datetime.now(UTC),
        findings=list(findings),
    )


def rolled_back(clone: layout.Layout, version: int | None, *, by: str, reason: str) -> Decision:
    """The return to an earlier version: the one that served before, unless named.

    Raises:
        WorkspaceError: if there is no such version, or it serves already.
    """
    entries = decisions(clone.root)
    before = previous(entries) if version is None else find(entries, version)
    if before is None:
        raise workspace.WorkspaceError(
            "expected a version that served before the present one; received a line without; name one with otmf status"
        )
    if before.version == entries[-1].version:
        raise workspace.WorkspaceError(
            f"expected another version than the one that serves; received v{before.version}; there is nothing to do"
        )
    now = {"action": "rolled_back", "by": by, "reason": reason, "at": datetime.now(UTC), "findings": []}
    return before.model_copy(update=now)


def number(version: str) -> int:
    """The number of a version as a person types it, such as v3."""
    found = re.fullmatch(r"v?([1-9]\d{0,8})", version)
    if not found:
        raise workspace.WorkspaceError(
            f"expected a version such as v3; received {version[:40]!r}; otmf status names them"
        )
    return int(found.group(1))


def reason(given: str) -> str:
    """What a person gave as a reason, on one line. Raises WorkspaceError if that is nothing."""
    said = " ".join(given.split())
    if not said:
        raise workspace.WorkspaceError("expected a reason; received an empty one; say why, in a few words")
    return said[:500]


def commit(root: Path, version: int) -> str:
    """The commit that recorded a version. Raises ProcessError if its tag is gone."""
    return git.run(root, "rev-parse", "--verify", f"refs/tags/{tag(version)}^{{commit}}").strip()


def tag(version: int) -> str:
    """The git tag of a version's commit."""
    return f"model/v{version}"


def actor() -> str:
    """Who decides: OTMF_ACTOR, else the user of this process."""
    return os.environ.get(ACTOR) or getpass.getuser()


def describe(entry: Decision) -> str:
    """One line about a version."""
    return f"v{entry.version} ({entry.step}, {entry.task}; {entry.action.replace('_', ' ')} by {entry.by})"
