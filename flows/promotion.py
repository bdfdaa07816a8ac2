"""People's decisions about versions: against the gate, back to an earlier one; and what stands now."""

from __future__ import annotations

import re
from collections.abc import Callable

from flows import git, kept, registry, remotes, tracking, versions, workspace
from otmf import layout, settings

Log = Callable[[str], None]


def promote(line: layout.Layout, task: str, *, by: str | None, reason: str, log: Log) -> versions.Entry:
    """Moves the line to the attempt that the gate refused, as a version of its own.

    Raises:
        WorkspaceError: if there is no such attempt, or the line has moved on since.
    """
    reason = _reason(reason)
    with workspace.locked(line):
        workspace.require_clean(line)
        remotes.synchronise(line)
        branch = kept.branches(line).get(task)
        if branch is None:
            raise workspace.WorkspaceError(
                f"expected a refused attempt ({', '.join(kept.branches(line)) or 'there is none'}); received {task!r}; choose one"
            )
        if _commit(line, f"{branch}^") != _commit(line, "HEAD"):
            raise workspace.WorkspaceError(
                f"expected the line to stand where {task} was refused; received a line that has moved on; onboard the card "
                "again with --override REASON"
            )
        attempt = workspace.begin(line, task, commit=branch)
        step = settings.chain(workspace.params(attempt).steps)[-1]
        newest = workspace.params(attempt).steps[step].task
        entry = versions.accept(
            attempt, action="overridden", step=step, task=newest, by=by or versions.actor(), reason=reason
        )
        _land(line, attempt, f"Accept {task} against the gate\n\n{reason}", versions.tag(entry.version), log)
        kept.drop(line, task)
    _follow(line, log)
    return entry


def roll_back(line: layout.Layout, version: str | None, *, by: str | None, reason: str, log: Log) -> versions.Entry:
    """Lets an earlier version serve again: one more entry in the history, and the aliases set.

    Raises:
        WorkspaceError: if there is no such version, or it serves already.
    """
    reason = _reason(reason)
    number = None if version is None else _number(version)
    with workspace.locked(line):
        workspace.require_clean(line)
        remotes.synchronise(line)
        attempt = workspace.begin(line, "rollback")
        entry = versions.roll_back(attempt, number, by=by or versions.actor(), reason=reason)
        _land(line, attempt, f"Roll back to v{entry.version}\n\n{reason}", None, log)
    _follow(line, log)
    return entry


def serving(line: layout.Layout) -> layout.Layout:
    """The line as it was when its champion was made: where predictions come from."""
    champion = versions.champion(versions.history(line.root))
    if champion is None:
        return line
    newest = max(entry.version for entry in versions.history(line.root))
    if champion.version == newest:
        return line
    return workspace.at(line, _commit(line, versions.tag(champion.version)), f"v{champion.version}")


def _land(line: layout.Layout, attempt: layout.Layout, message: str, tag: str | None, log: Log) -> None:
    workspace.commit(attempt.root, message)
    trouble = workspace.land(line, attempt, tag=tag)
    if trouble:
        log(trouble)


def _follow(line: layout.Layout, log: Log) -> None:
    name = workspace.params(line).line
    try:
        registry.follow(tracking.prepare(line, name), line, name)
    except workspace.WorkspaceError as error:
        log(f"decided, but not yet in the tracking store: {error}")


def _commit(line: layout.Layout, revision: str) -> str:
    return git.run(line.root, "rev-parse", f"{revision}^{{commit}}").strip()


def _number(version: str) -> int:
    found = re.fullmatch(r"v?([1-9]\d{0,8})", version)
    if not found:
        raise workspace.WorkspaceError(
            f"expected a version such as v3; received {version[:40]!r}; otmf status names them"
        )
    return int(found.group(1))


def _reason(reason: str) -> str:
    said = " ".join(reason.split())
    if not said:
        raise workspace.WorkspaceError("expected a reason; received an empty one; say why, in a few words")
    return said[:500]
