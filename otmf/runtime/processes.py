"""Which process asked for which, and how those that were asked for end with it (Linux; elsewhere nothing of it happens)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

STARTED_BY = "OTMF_STARTED_BY"  # the process whose stage one is
_LINUX = sys.platform.startswith("linux")
_LIBC = ctypes.CDLL(None) if _LINUX else None  # loaded before any fork
_PR_SET_PDEATHSIG = 1


def die_with_parent(sign: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to send this process a signal when the thread that started it ends."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, sign)


def lives(process: int) -> bool:
    """Whether a process of that id is there, whoever's it is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def holder(lock: Path) -> str:
    """Which process holds a lock file, for a person: `otmf onboard, process 1234`; empty where the kernel does not say."""
    try:
        there = lock.stat()
        place = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
        held = [entry.split() for entry in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
        process = next(int(entry[4]) for entry in held if entry[1] == "FLOCK" and entry[5] == place)
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, StopIteration, ValueError, IndexError):
        return ""
    own = next((number for number, word in enumerate(words) if Path(word).name == "otmf"), None)
    command = "a run of Prefect" if any("prefect" in word for word in words[:4]) else Path(words[0]).name
    return f"{command if own is None else ' '.join(['otmf', *words[own + 1 : own + 2]])}, process {process}"


def outlived(owner: int) -> bool:
    """Whether the process `owner` is no longer among our ancestors: it, or one between, has ended.

    The kernel tells a child of its parent's death only if the child asked before it; one that asks afterwards looks.
    """
    found = os.getppid()
    while _LINUX and found != owner:
        try:
            with open(f"/proc/{found}/stat", "rb") as stream:
                found = int(stream.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            return True
        if found == 0:
            return True
    return False


def heeded() -> tuple[signal.Signals, ...]:
    """The signals that end a server gracefully; that of a closed terminal is one, unless `nohup` has it ignored."""
    hangs_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if hangs_up else ()))
