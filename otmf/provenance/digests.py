"""Identity by content: sha256 of files and folders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath


def digest(path: Path) -> str:
    """sha256 in hexadecimal of a file's bytes, or of a folder's sorted list of relative paths and their digests.

    Raises:
        FileNotFoundError: if nothing is there.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(
            f"expected a file or folder to identify; received {path}, which does not exist; run its stage"
        )
    return listing({part.relative_to(path).as_posix(): digest(part) for part in path.rglob("*") if part.is_file()})


def listing(parts: Mapping[str, str]) -> str:
    """The identity of a folder, from relative path -> sha256 of each of its files."""
    lines = [f"{name} {parts[name]}" for name in sorted(parts, key=lambda name: PurePosixPath(name).parts)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
