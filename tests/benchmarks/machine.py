"""What every evidence file begins with: the command, the machine, the versions, the commit."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from otmf.provenance import machine


def heading(title: str, command: str) -> str:
    """The first lines of an evidence file."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"    {command}\n\n# {title}\n\n"
        f"Machine: {cores()} cores of {machine.processor()}, {memory_gib():.0f} GiB, no accelerator; Python {platform.python_version()}, "
        f"torch {metadata.version('torch')}, open_clip {metadata.version('open_clip_torch')}, POT {metadata.version('pot')}; "
        f"commit {commit}.\n"
    )


def cores() -> int:
    import os

    return os.cpu_count() or 1


def memory_gib() -> float:
    line = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()[0]
    return int(line.split()[1]) / 2**20


def peak_mib() -> float:
    """The greatest resident size of this process so far, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"expected VmHWM in /proc/self/status; received none on {sys.platform}; run on Linux")


def table(columns: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"
