"""What a piece of work costs: seconds, and memory at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

MIB = 2**20


@dataclass
class Cost:
    """Seconds; `peak_mib` of the whole process on its device, and `added_mib` above what it held, in use, when the work began.

    Memory is None where the system does not say it (outside Linux, on a CPU).
    """

    seconds: float = 0.0
    peak_mib: float | None = None
    added_mib: float | None = None

    def reached(self, peak: float) -> None:
        """The peak is no lower than this, in MiB of the process; what it held when the work began is the same."""
        if self.peak_mib is not None and self.added_mib is not None and peak > self.peak_mib:
            self.peak_mib, self.added_mib = peak, self.added_mib + peak - self.peak_mib


@contextlib.contextmanager
def measured(where: torch.device) -> Iterator[Cost]:
    """The cost of what is done inside, filled in when it ends."""
    found = Cost()
    before = _begin(where)
    begun = clock(where)
    yield found
    found.seconds = clock(where) - begun
    found.peak_mib = peak(where)
    if before is not None and found.peak_mib is not None:
        found.added_mib = max(found.peak_mib - before, 0.0)


def clock(where: torch.device) -> float:
    """Seconds, from any time on, once what the device was asked for is done."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter()


def _begin(where: torch.device) -> float | None:
    """Forgets earlier peaks; MiB held now."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        return held(where)
    _give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return held(where)


def _give_back() -> None:
    """Freed memory, to the system: otherwise work that takes it up again seems to add none."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def held(where: torch.device) -> float | None:
    """MiB held now."""
    return torch.cuda.memory_allocated(where) / MIB if where.type == "cuda" else _status("VmRSS")


def peak(where: torch.device) -> float | None:
    """MiB held at the peak since `measured` began."""
    return torch.cuda.max_memory_allocated(where) / MIB if where.type == "cuda" else _status("VmHWM")


def _status(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")]
    return found[0] if found else None
