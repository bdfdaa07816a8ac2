"""The `otmf` command for tests: in this process where it only reads, decides or refuses, in one of its own where it starts flows or servers."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from flows.cli import main
from otmf.runtime import environment

# An interpreter that starts and imports what a command needs takes one to four seconds; these need none of their own.
IN_PROCESS = {
    "audit", "diff", "export", "import", "init", "keys", "methods", "predict", "promote", "report", "rollback", "status", "trace", "verify",
    "withdraw",
}  # fmt: skip


def run(arguments: list[str], given: Mapping[str, str]) -> subprocess.CompletedProcess:
    """What a command of `IN_PROCESS` prints and how it ends, in an environment that is exactly the given one."""
    with _environment(given), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a command prints what others warn of, and goes on
        environment.settle()
        done = CliRunner().invoke(main.app, arguments)
    said = done.stderr
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        said += "".join(traceback.format_exception(done.exception))
    return subprocess.CompletedProcess(["otmf", *arguments], done.exit_code, done.stdout, said)


def run_apart(arguments: list[str], given: Mapping[str, str]) -> subprocess.CompletedProcess:
    """The same of any command, as a user would call it."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "otmf"), *arguments],
        env=dict(given), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(given)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
