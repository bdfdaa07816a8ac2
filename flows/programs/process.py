"""Child processes: arguments as lists, output line by line, ended with their parent."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from otmf.runtime import errors, processes
from otmf.runtime.environment import OWN, QUIET, SAFE, inherited, without_proxy

# How long a waiting thread of OpenMP keeps its core: with the default, stages that share two cores with anything else
# slow down many times over; not waiting at all costs half the speed of small encoders on idle cores.
PATIENT = {"GOMP_SPINCOUNT": "5000"}


LONGEST = 600  # characters of what another tool says that are passed on,
MOST = 4  # and lines
FULL = 1 << 20  # bytes left on a disk that many writes need more of
_FAILED = re.compile(r"^(ERROR|error|fatal): *")
_ADVICE = re.compile(r"dvc\.org/support")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class ProcessError(RuntimeError):
    """A child process that failed. The message is its last clear sentence.

    Attributes:
        lasting: whether it said that what it was given is wrong, so that running it again would not help.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with our interpreter first in PATH and telemetry off."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    theirs = inherited(os.environ)
    ours = {**QUIET, **SAFE, **OWN, **without_proxy(theirs), "PATH": path, "PYTHONUNBUFFERED": "1"}
    return {**PATIENT, **theirs, **ours, **(extra or {})}


def run(arguments: Sequence[str], *, folder: Path, extra: Mapping[str, str] | None = None) -> str:
    """Standard output of a short command, as text. Arguments and errors as `read`."""
    return read(arguments, folder=folder, extra=extra).decode(errors="replace")


def read(
    arguments: Sequence[str], *, folder: Path, extra: Mapping[str, str] | None = None, stdin: str | None = None
) -> bytes:
    """Standard output of a short command, byte for byte.

    Args:
        arguments: the command.
        folder: where it runs.
        extra: further environment.
        stdin: what it reads from its standard input; nothing, where that is None.

    Raises:
        ProcessError: with what it said, if it fails.
    """
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin.encode()}
    done = subprocess.run(
        list(arguments), cwd=folder, env=environment(extra), capture_output=True, check=False, **given
    )
    if done.returncode != 0:
        said = [line for stream in (done.stdout, done.stderr) for line in stream.decode(errors="replace").splitlines()]
        raise ProcessError(_last_sentence(said, arguments) + _full(folder))
    return done.stdout


def answering(arguments: Sequence[str], *, folder: Path, extra: Mapping[str, str] | None = None) -> subprocess.Popen:
    """A command that answers on its standard output, as bytes, what it is asked on its standard input, until that closes."""
    return subprocess.Popen(
        list(arguments),
        cwd=folder,
        env=environment(extra),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def pump(
    arguments: Sequence[str], *, folder: Path, log: Callable[[str], None], extra: Mapping[str, str] | None = None
) -> list[str]:
    """All output lines of a long command, each handed to `log` as it comes.

    The command runs in a session of its own: an interrupt reaches this process alone, which then ends the command and
    all its children before it goes on. Its environment names this process, so that a stage which starts too late to be
    told of our death by the kernel sees that it has been left alone.

    Raises:
        ProcessError: if it fails.
    """
    lines: list[str] = []
    process = subprocess.Popen(
        list(arguments),
        cwd=folder,
        env=environment({**(extra or {}), processes.STARTED_BY: str(os.getpid())}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            log(lines[-1])
        code = process.wait()
    except BaseException:
        end(process)
        raise
    finally:
        process.stdout.close()
    if code != 0:
        raise ProcessError(_last_sentence(lines, arguments) + _full(folder), lasting=_lasting(lines))
    return lines


def end(process: subprocess.Popen) -> None:
    """Ends a process started in a session of its own, with its children: first asked, then killed."""
    for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def die_with_parent() -> None:
    """In a child about to start: asks the kernel to end it when the parent's thread ends.

    A shell that starts us in the background has us ignore SIGINT, which Prefect's processes send themselves to end.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    processes.die_with_parent(signal.SIGTERM)


def _lasting(lines: list[str]) -> bool:
    """Whether a stage refused what it was given: our sentence, and not the exit code of an environment that failed."""
    ours = any(line.startswith("otmf: ") for line in lines)
    return ours and not any(line.endswith(f"exited with {errors.TEMPORARY}") for line in lines)


def _last_sentence(lines: list[str], arguments: Sequence[str]) -> str:
    """Ours, if one of our processes said one; else what the tool itself said, in full."""
    ours = [line.removeprefix("otmf: ") for line in lines if line.startswith("otmf: ")]
    if ours:
        return ours[-1]
    plain = [line for line in (_ANSI.sub("", line).strip() for line in lines) if line and not _ADVICE.search(line)]
    first = next((place for place, line in enumerate(plain) if _FAILED.match(line)), None)
    said = plain[-1:] if first is None else plain[first:]
    if len(said) > MOST + 1:  # git names every file that it could not write
        said = [*said[:MOST], f"and {len(said) - MOST} more lines"]
    text = " ".join(_FAILED.sub("", line) for line in said)[:LONGEST] or "nothing"
    return f"expected `{_typed(arguments)}` to succeed; received: {text}"


def _full(folder: Path) -> str:
    """That a folder's disk is full, where it is: git and DVC then name the files that they could not write, and not why."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return (
        f" (the disk of {folder} is full: {free // 1024} KiB left; make room, then call it again)"
        if free < FULL
        else ""
    )


def _typed(arguments: Sequence[str]) -> str:
    """A command as a person would type it: without our interpreter and without settings."""
    words = [str(one) for one in arguments]
    if words[:2] == [sys.executable, "-m"]:
        words = words[2:]
    words[:1] = {"stages.warm.dvc": ["dvc"], "stages": ["python", "-m", "stages"]}.get(words[0], [Path(words[0]).name])
    while words[1:2] == ["-c"]:
        del words[1:3]
    return " ".join(words[:4])
