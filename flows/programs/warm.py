"""Starts the warm interpreter of DVC and the stages for as long as a command runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flows.programs import process
from otmf.runtime.environment import WARM


@contextlib.contextmanager
def interpreter() -> Iterator[dict[str, str]]:
    """Leads this process's DVC and stages to a warm interpreter: one already named in the environment, else one of our own.

    Yields what the environment then says, for processes that are given another.
    """
    if os.environ.get(WARM):
        yield {WARM: os.environ[WARM]}
        return
    with tempfile.TemporaryDirectory(prefix="otmf-") as folder:
        path = str(Path(folder) / "warm")
        server = subprocess.Popen(
            [sys.executable, "-m", "stages.warm.interpreter", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=process.environment(),
            start_new_session=True,
            cwd=folder,
        )
        try:
            os.environ[WARM] = path
            yield {WARM: path}
        finally:
            os.environ.pop(WARM, None)
            server.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)
            process.end(server)
