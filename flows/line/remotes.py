"""What a line exchanges with its git remote: attempts for agents, results of theirs, accepted versions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from flows.dvc import commands
from flows.line import branch
from flows.programs import git, process
from flows.programs.failures import WorkspaceError
from otmf.runtime import layout

REMOTE = "origin"


def offer(clone: layout.Layout, ref: str) -> str:
    """Puts what a clone holds into the line's git remote, as a commit under a name of ours, on no branch.

    The commit depends on nothing but its content and the clone's commit below it, so that an attempt made again after a
    death gives the same one. `{}` in the name stands for it. Returns its hash.
    """
    git.run(clone.root, "add", "--all")
    tree = git.run(clone.root, "write-tree").strip()
    date = git.run(clone.root, "show", "--no-patch", "--format=%cI", "HEAD").strip()
    parts = [f"{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL", "DATE")]
    fixed = {f"GIT_{part}": date if part.endswith("DATE") else "otmf@localhost" for part in parts}
    arguments = ("commit-tree", tree, "-p", "HEAD", "-m", "An attempt under way")
    commit = git.run(clone.root, *arguments, extra=fixed).strip()
    _patiently(
        lambda: git.run(clone.root, "push", "--quiet", "--force", _remote_of(clone), f"{commit}:{ref.format(commit)}")
    )
    return commit


def withdraw(clone: layout.Layout, *refs: str) -> None:
    """Takes such names off the git remote again; that they may stay there does no harm."""
    with contextlib.suppress(process.ProcessError):
        git.run(clone.root, "push", "--quiet", _remote_of(clone), *(f":{ref}" for ref in refs))


def fetch(line: layout.Layout, ref: str) -> None:
    """Brings such a commit from the line's git remote into the line."""
    _patiently(lambda: git.run(line.root, "fetch", "--quiet", "--no-tags", REMOTE, ref))


def take_over(clone: layout.Layout, ref: str, paths: tuple[str, ...]) -> None:
    """Takes from a commit in the line's git remote what differs from a clone, below some paths only.

    Raises:
        WorkspaceError: if anything else differs.
    """
    _patiently(lambda: git.run(clone.root, "fetch", "--quiet", "--no-tags", _remote_of(clone), ref))
    commit = git.run(clone.root, "rev-parse", "FETCH_HEAD").strip()
    git.run(clone.root, "add", "--all")
    names = git.run(clone.root, "diff", "--cached", "--name-only", "--no-renames", "-z", commit).split("\0")[:-1]
    foreign = [name for name in names if not name.startswith(paths)]
    if foreign:
        raise WorkspaceError(
            f"expected a stage's results to differ below {', '.join(paths)} only; received {', '.join(foreign[:3])}; do not trust that agent"
        )
    if names:
        git.run(clone.root, "checkout", "--quiet", commit, "--", *names)


def _remote_of(clone: layout.Layout) -> str:
    """The address of the git remote of the line that a clone is one of."""
    return git.run(owner(clone).root, "remote", "get-url", REMOTE).strip()


def owner(clone: layout.Layout) -> layout.Layout:
    """The line that an attempt is a clone of."""
    return layout.Layout(Path(git.run(clone.root, "remote", "get-url", "origin").strip()))


def has_remote(line: layout.Layout) -> bool:
    """Whether the line has a git remote of ours."""
    return REMOTE in git.run(line.root, "remote").split()


def synchronise(line: layout.Layout) -> None:
    """Moves a line with a git remote forward to where the remote's main is; to be called by the holder of its lock.

    Raises:
        WorkspaceError: if both have moved on; a person has to decide then.
    """
    if not has_remote(line):
        return
    _patiently(lambda: git.run(line.root, "fetch", "--quiet", "--tags", REMOTE))
    theirs = f"refs/remotes/{REMOTE}/{branch.NAME}"
    if not git.run(line.root, "for-each-ref", theirs).strip():
        return
    ahead, behind = git.run(line.root, "rev-list", "--left-right", "--count", f"{branch.NAME}...{theirs}").split()
    if behind != "0" and ahead != "0":
        raise WorkspaceError(
            f"expected the line and its git remote to be one history; received {ahead} commits only here and {behind} only there; "
            "rebase or reset one of them"
        )
    if behind != "0":
        branch.move(line, git.run(line.root, "rev-parse", theirs).strip())
        if commands.has_remote(line.root):
            commands.pull(line.root)


def publish(line: layout.Layout, attempt: layout.Layout, commit: str, tag: str | None, *, outputs: bool = True) -> None:
    """Data first, then the commit: whoever sees the commit finds what it names. Nothing without remotes.

    Raises:
        WorkspaceError: if the git remote does not take it.
    """
    if not has_remote(line):
        return
    if outputs:
        publish_outputs(attempt)
    names = [f"{commit}:refs/heads/{branch.NAME}", *([f"{commit}:refs/tags/{tag}"] if tag else [])]
    try:
        _patiently(lambda: git.run(line.root, "push", "--quiet", "--atomic", REMOTE, *names))
    except process.ProcessError as error:
        raise WorkspaceError(
            f"expected the git remote to take the new version; received: {str(error)[:300]}; the line is as it was; it goes on from "
            "there when the remote answers and nobody has pushed in between"
        ) from error


def publish_outputs(attempt: layout.Layout) -> None:
    """Puts what an attempt has in DVC into the DVC remote, if it has one; to be called before the line is held: it may take long."""
    if commands.has_remote(attempt.root):
        _patiently(lambda: commands.push(attempt.root, runs=True))


def _patiently(work: Callable[[], object]) -> None:
    """Tries three times, for remotes that do not answer at once; what the remote refuses is not tried again."""
    for pause in (1, 4, None):
        try:
            work()
            return
        except process.ProcessError as error:
            if pause is None or any(word in str(error) for word in ("rejected", "non-fast-forward", "not found")):
                raise
            time.sleep(pause)
