"""A real `otmf serve` in a process of its own, and what is sent to it."""

from __future__ import annotations

import base64
import contextlib
import io
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from flows.programs import process
from tests import makers
from tests.pipeline import production

PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}


@dataclass
class Served:
    """A server that runs: its address, its process and what it wrote."""

    url: str
    process: subprocess.Popen
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def model(self) -> psutil.Process:
        """The process with the model."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def end(self, sign: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Asks it to end; its exit code."""
        self.process.send_signal(sign)
        return self.process.wait(seconds)

    def half_open(self, content: bytes = b"GET /health HTTP/1.1\r\nHost: localh") -> socket.socket:
        """A connection on which part of a request was sent."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        found.sendall(content)
        return found


@contextlib.contextmanager
def served(root: Path, folder: Path, *options: object, ready: bool = True, **environment: str) -> Iterator[Served]:
    """A server of a line, once it is ready; it is ended afterwards, and may not have shown a traceback.

    Args:
        root: of the line.
        folder: for its log.
        options: of `otmf serve`.
        ready: whether it is waited for.
        environment: of its process.
    """
    port, log = production.free_port(), folder / "log"
    command = [str(Path(sys.executable).parent / "otmf"), "serve", "--line", root, "--port", port, *options]
    env = process.environment({"HOME": str(folder), **environment})
    with log.open("wb") as stream:
        server = subprocess.Popen(
            list(map(str, command)),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(
                signal.SIGHUP, signal.SIG_DFL
            ),  # tests under nohup would hand on that it is ignored
        )
    found = Served(f"http://127.0.0.1:{port}", server, log)
    try:
        if ready:
            production.until(lambda: server.poll() is not None or production.answers(f"{found.url}/ready"), 90)
            assert server.poll() is None, log.read_text()[-3000:]
        yield found
    finally:
        if server.poll() is None:
            process.end(server)
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


def picture(seed: int = 5) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(makers.pictures(1, seed=seed)[0][0]).save(stream, "PNG")
    return stream.getvalue()


def large(width: int, height: int) -> bytes:
    """A small file with a large picture in it."""
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def encoded(*contents: bytes) -> list[str]:
    return [base64.b64encode(content).decode() for content in contents]


def ask(url: str, content: bytes | None = None, *, task: str = "first", **options: Any) -> httpx.Response:
    """What the server answers to one picture."""
    return httpx.post(f"{url}/predict/{task}", content=content or picture(), headers=PNG, **{"timeout": 30, **options})
