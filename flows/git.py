"""The only place that starts git."""

from __future__ import annotations

import os
from pathlib import Path

from flows import process


def run(folder: Path, *arguments: str) -> str:
    """Output of a git command in a folder, with an author where none is configured and no hooks of the user's."""
    return process.run(
        ["git", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null", *arguments],
        folder=folder,
        extra=_author(folder),
    )


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
