"""Commands of `otmf` that a kill, a full disk or a failing git meets at a chosen point: counted by what they write and start.

A point is a number: of a write, a rename, a removal or a process start below the line's folder (kinds `kill`, `full`), or of a call of git
(`git-fails`, `git-dies`). Each command runs in a fork of this process, which has imported everything already.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = ("kill", "full", "git-fails", "git-dies")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.rename": 1,
    "os.remove": 0,
    "os.mkdir": 0,
    "os.rmdir": 0,
    "os.link": 1,
    "os.symlink": 1,
    "os.truncate": 0,
}
_TAKES_SPACE = ("open", "os.rename", "os.mkdir", "os.link", "os.symlink", "subprocess.Popen")
_GIT = """#!/bin/sh
# The git of {real}, which fails or takes whoever called it along at a chosen call.
number=$(($(cat "$OTMF_TEST_COUNT" 2>/dev/null || echo 0) + 1))
echo $number > "$OTMF_TEST_COUNT"
if [ "$number" = "$OTMF_TEST_POINT" ] && [ "$OTMF_TEST_KIND" = git-fails ] && [ $((number % 2)) = 1 ]; then
  echo "fatal: unable to write: No space left on device" >&2; exit 128
fi
{real} "$@"
code=$?
if [ "$number" = "$OTMF_TEST_POINT" ]; then
  if [ "$OTMF_TEST_KIND" = git-dies ]; then kill -9 $PPID; exit 137; fi
  if [ "$OTMF_TEST_KIND" = git-fails ]; then echo "fatal: unable to write: No space left on device" >&2; exit 128; fi
fi
exit $code
"""


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: the signal that ended it), what it said, and how many points it passed."""

    code: int
    said: str
    points: int


def prepare(environment: Mapping[str, str]) -> None:
    """Imports what the commands need, once, for all of them; Prefect reads its settings when it is imported."""
    os.environ.update({key: value for key, value in environment.items() if key.startswith("PREFECT_")})
    import mlflow  # noqa: F401
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401

    from flows.versions import keyring, registry  # noqa: F401


def run(
    line: Path, arguments: Sequence[str], *, environment: Mapping[str, str], kind: str = "", point: int = 0
) -> Done:
    """Runs `otmf` with some arguments; at a point of a kind what that says happens. Point 0: nothing does, and they are counted."""
    with tempfile.TemporaryDirectory(prefix="otmf-faulty-") as name:
        folder = Path(name)
        told = dict(environment) | {
            "TMPDIR": name,
            "OTMF_TEST_COUNT": str(folder / "git"),
            "OTMF_TEST_POINT": str(point),
            "OTMF_TEST_KIND": kind,
        }
        if kind.startswith("git-"):
            told["PATH"] = f"{_wrapped(folder)}{os.pathsep}{told['PATH']}"
        child = os.fork()
        if child == 0:
            _child(line, arguments, told, folder, kind, point)
        _, status = os.waitpid(child, 0)
        said = (folder / "said").read_text(encoding="utf-8", errors="replace")
        counted = folder / ("git" if kind.startswith("git-") else "points")
        points = int(counted.read_text() or 0) if counted.exists() else 0
        return Done(os.waitstatus_to_exitcode(status), said, points)


def _wrapped(folder: Path) -> Path:
    """A folder with a git of ours."""
    real = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    place = folder / "bin"
    place.mkdir()
    (place / "git").write_text(_GIT.format(real=real), encoding="utf-8")
    (place / "git").chmod(0o755)
    return place


def _child(line: Path, arguments: Sequence[str], told: Mapping[str, str], folder: Path, kind: str, point: int) -> None:
    """In the fork: does not return."""
    code = 70
    try:
        stream = os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.setsid()
        os.environ.clear()
        os.environ.update(told)
        tempfile.tempdir = None
        counter = _Counter(line, kind, point)
        if not kind.startswith("git-"):
            sys.addaudithook(counter)
        sys.argv = ["otmf", *map(str, arguments)]
        from flows.cli import main

        try:
            main.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        counter.done = True
        (folder / "points").write_text(str(counter.count))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Counter:
    """Counts what changes a line's folder, and what is started; at the point the process is killed, or the disk is full from there on."""

    def __init__(self, line: Path, kind: str, point: int) -> None:
        self.root, self.kind, self.point = str(line), kind, point
        self.count, self.done, self.full = 0, False, False

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.done or not self._ours(event, arguments):
            return
        self.count += 1
        if self.count == self.point:
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            self.full = self.kind == "full"
        if self.full and event in _TAKES_SPACE and not self._lock(arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0])[:200])

    def _ours(self, event: str, arguments: tuple) -> bool:
        if event == "subprocess.Popen":
            return True
        if event == "open":
            return isinstance(arguments[2], int) and bool(arguments[2] & _WRITES) and self._inside(arguments[0])
        return event in _CHANGES and self._inside(arguments[_CHANGES[event]])

    def _inside(self, path: object) -> bool:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        return text.startswith(f"{self.root}/") and not text.startswith(f"{self.root}/.otmf/prefect")

    def _lock(self, arguments: tuple) -> bool:
        """A file that is there already is opened again on a full disk."""
        try:
            return stat.S_ISREG(os.stat(arguments[0]).st_mode) and os.stat(arguments[0]).st_size == 0
        except (OSError, TypeError, ValueError):
            return False
