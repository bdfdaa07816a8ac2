"""What the bytes of an output may depend on beside code and parameters; never the machine's name."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The model of this machine's processor, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def about() -> dict[str, str]:
    """Processor, system and Python."""
    return {"processor": processor(), "system": platform.system(), "python": platform.python_version()}
