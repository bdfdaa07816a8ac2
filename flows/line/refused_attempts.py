"""Attempts that the gate refused, kept as branches of the line until they are promoted or made again."""

from __future__ import annotations

import contextlib
import shutil
from typing import Literal

from flows.line import remotes
from flows.programs import git, process
from otmf.provenance import ledger
from otmf.runtime import layout

KINDS = ("rejected", "quarantined")


def keep(line: layout.Layout, attempt: layout.Layout, kind: Literal["rejected", "quarantined"]) -> str:
    """Keeps the attempt's commit in the line under a branch, in place of an older one, and the attempt goes.

    The git remote gets the branch if it answers. Returns the branch.
    """
    name = attempt.root.name
    branch = f"{kind}/{name}"
    git.run(line.root, "fetch", "--quiet", "--no-tags", str(attempt.root), f"+HEAD:refs/heads/kept-{name}")
    drop(line, name)
    git.run(line.root, "branch", "--quiet", "--move", f"kept-{name}", branch)
    if remotes.has_remote(line):
        with contextlib.suppress(process.ProcessError):
            git.run(line.root, "push", "--quiet", "--force", remotes.REMOTE, f"refs/heads/{branch}")
    shutil.rmtree(attempt.root, ignore_errors=True)
    return branch


def branches(line: layout.Layout) -> dict[str, str]:
    """Name of each attempt that was kept -> its branch."""
    asked = [f"refs/heads/{kind}" for kind in KINDS]
    found = git.run(line.root, "for-each-ref", "--format=%(refname:strip=2)", *asked).split()
    return {branch.partition("/")[2]: branch for branch in sorted(found)}


def moved_on(line: layout.Layout, branch: str) -> list[str]:
    """The files, but for records of the ledger, in which the line differs from what a kept attempt stands on."""
    where = ("--", ".", f":(exclude){ledger.FOLDER}")
    return git.run(line.root, "diff", "--name-only", "-z", f"{branch}^", "HEAD", *where).split("\0")[:-1]


def drop(line: layout.Layout, name: str) -> None:
    """Lets a kept attempt of that name go, here and in the git remote."""
    branch = branches(line).get(name)
    if branch is None:
        return
    git.run(line.root, "branch", "--quiet", "-D", branch)
    if remotes.has_remote(line):
        with contextlib.suppress(process.ProcessError):
            git.run(line.root, "push", "--quiet", remotes.REMOTE, f":refs/heads/{branch}")
