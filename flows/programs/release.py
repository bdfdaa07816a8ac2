"""Which code this is: the version, and the content of the package's own sources."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from otmf import __version__


@functools.cache
def release() -> str:
    """Version and content hash of otmf, stages and flows; two machines with the same one compute the same."""
    root = Path(__file__).resolve().parents[2]
    sources = sorted(path for folder in ("otmf", "stages", "flows") for path in (root / folder).rglob("*.py"))
    content = hashlib.sha256()
    for path in sources:
        content.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"{__version__}+{content.hexdigest()[:12]}"
