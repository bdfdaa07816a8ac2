"""Starts the stages' warm interpreter for as long as a command runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flows import process

VARIABLE = "OTMF_WARM"


@contextlib.contextmanager
def interpreter() -> Iterator[dict[str, str]]:
    """The environment that leads stages to a warm interpreter: one already named there, else one of our own."""
    if os.environ.get(VARIABLE):
        yield {VARIABLE: os.environ[VARIABLE]}
        return
    with tempfile.TemporaryDirectory(prefix="otmf-") as folder:
        path = str(Path(folder) / "warm")
        server = subprocess.Popen(
            [sys.executable, "-m", "stages._warm", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=process.environment(),
            start_new_session=True,
            cwd=folder,
        )
        try:
            yield {VARIABLE: path} if server.poll() is None else {}
        finally:
            server.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)
            process.end(server)
