"""The only place that starts git."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flows import process

_SIGNED = ("cherry-pick", "commit", "fetch", "merge", "push", "tag")  # what may put a name into the history


def run(folder: Path, *arguments: str) -> str:
    """Output of a git command in a folder, with an author where none is configured and no hooks of the user's."""
    return process.run(
        ["git", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null", *arguments],
        folder=folder,
        extra=_author(folder) if arguments[0] in _SIGNED else None,
    )


def tree(folder: Path, revision: str) -> dict[str, str]:
    """Path -> id of its content, for every file of a commit."""
    listed = run(folder, "ls-tree", "-r", "-z", "--full-tree", revision).split("\0")[:-1]
    return {path: about.split()[2] for about, _, path in (entry.partition("\t") for entry in listed)}


def blob(folder: Path, name: str) -> bytes:
    """A content by its id."""
    return process.read(["git", "cat-file", "blob", name], folder=folder)


def name(content: bytes) -> str:
    """The id that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _author(folder: Path) -> dict[str, str]:
    fallback = {"NAME": "otmf", "EMAIL": "otmf@localhost"}
    missing = {part: value for part, value in fallback.items() if not _configured(folder, part.lower())}
    return {
        f"GIT_{role}_{part}": os.environ.get(f"GIT_{role}_{part}", value)
        for role in ("AUTHOR", "COMMITTER")
        for part, value in missing.items()
    }


def _configured(folder: Path, part: str) -> bool:
    try:
        return bool(process.run(["git", "config", f"user.{part}"], folder=folder).strip())
    except (process.ProcessError, OSError):
        return False
