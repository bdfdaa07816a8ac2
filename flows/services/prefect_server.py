"""A Prefect server for the length of one command, where no other is named: sqlite in the line's folder, on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import httpx

from flows.programs import process
from otmf.runtime import errors, layout

PATIENCE = 180.0
_THEIRS = "PREFECT_"  # settings of a server that somebody has elsewhere: its database, its password
_SAY = (
    "PREFECT_LOGGING_",
    "PREFECT_API_URL",
)  # what of a user's settings a command heeds that starts a server of its own
AGENTS = "gpu"  # the work pool of agents


def answers(url: str) -> bool:
    """Whether a Prefect server answers at an API address."""
    try:
        return httpx.get(f"{url.rstrip('/')}/health", timeout=5).json() is True
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


def require(url: str) -> None:
    """Refuses to go on without a Prefect server of our version that lets us in.

    Raises:
        ConnectionError: if none answers at an API address, or it is not that.
    """
    shown = errors.without_secrets(url)
    if not answers(url):
        raise ConnectionError(
            f"expected a Prefect server at {shown}; received no answer from one; start it with `prefect server start`, or unset "
            "PREFECT_API_URL"
        )
    user, _, secret = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    found = httpx.get(f"{url.rstrip('/')}/admin/version", auth=(user, secret) if user else None, timeout=30)
    if found.status_code == httpx.codes.UNAUTHORIZED:
        raise ConnectionError(
            f"expected to be let in by the Prefect server at {shown}; received 401 Unauthorized; set PREFECT_API_AUTH_STRING to what "
            "the server's PREFECT_SERVER_API_AUTH_STRING is"
        )
    theirs, ours = str(found.json()), metadata.version("prefect")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise ConnectionError(
            f"expected a Prefect server of version {ours} at {shown}; received {theirs}; install the same version on both sides"
        )


@contextlib.contextmanager
def own(home: Path) -> Iterator[str]:
    """The API address of a server of our own, in a session of its own so that an interrupt does not end it first.

    Raises:
        ConnectionError: if it does not answer in time.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = home / "server.log"
    extra = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_UI_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    ours = {key: value for key, value in process.environment().items() if not key.startswith(_THEIRS)}
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={**ours, **process.QUIET, **extra},
            cwd=home,  # Prefect reads `.env` and `prefect.toml` where it starts
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=process.die_with_parent,
        )
    try:
        _wait(server, url, log)
        yield url
    finally:
        process.end(server)


def _wait(server: subprocess.Popen, url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not answers(url):
        if server.poll() is not None or time.monotonic() > end:
            last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
            raise ConnectionError(
                f"expected a Prefect server to start; received: {last[:200]}; see {log}, or start one and set PREFECT_API_URL"
            )
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def connected(line: layout.Layout) -> Iterator[None]:
    """This process connected to a Prefect server: the one PREFECT_API_URL names, else one of our own.

    Its home is in the line, its log lines are short, telemetry is off; what the user has set stays.

    Raises:
        ConnectionError: if no server answers.
    """
    if os.environ.get("PREFECT_API_URL"):
        home = _settings(line)
        require(os.environ["PREFECT_API_URL"])
        _import(home)
        yield
        return
    for key in [key for key in os.environ if key.startswith(_THEIRS) and not key.startswith(_SAY)]:
        del os.environ[key]
    home = _settings(line)
    with own(home) as url:
        os.environ |= {"PREFECT_API_URL": url, "PREFECT_UI_ENABLED": "false"}
        _import(home)
        try:
            yield
        finally:
            _deliver()
            del os.environ["PREFECT_API_URL"], os.environ["PREFECT_UI_ENABLED"]


@contextlib.contextmanager
def reached(line: layout.Layout) -> Iterator[None]:
    """This process connected to the Prefect server that PREFECT_API_URL names, for what outlives one command.

    Raises:
        ConnectionError: if none is named, or it does not answer.
    """
    home = _settings(line)
    require_named()
    _import(home)
    try:
        yield
    finally:
        _deliver()


def require_named() -> None:
    """Raises ConnectionError if PREFECT_API_URL names no server, or one that does not answer."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise ConnectionError(
            "expected the address of a Prefect server in PREFECT_API_URL; received none; start one with `prefect server "
            "start` and set it, or use commands that start their own (`otmf onboard`, or `otmf bench` without --cluster)"
        )
    require(url)


def work(pool: str, limit: int | None) -> int:
    """Runs a Prefect worker of a pool until it ends or this process is asked to; returns its exit code.

    Args:
        pool: whose runs it takes.
        limit: how many at a time; None: one on an agent, else as many as there are cores and at least three. Without a bound a
            burst of submissions starts an interpreter for each at once, and the first is done minutes later than alone.
    """
    bound = limit or (1 if pool == AGENTS else max(3, os.cpu_count() or 1))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    worker = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            pool,
            "--type",
            "process",
            "--limit",
            str(bound),
        ],
        env=process.environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=process.die_with_parent,
    )
    try:
        return worker.wait()
    finally:
        process.end(worker)


def _settings(line: layout.Layout) -> Path:
    """Sets what the user has not set of Prefect's own settings; returns its home."""
    home = line.private / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    short = {
        f"PREFECT_LOGGING_FORMATTERS_STANDARD_{kind}_RUN_FMT": "%(asctime)s %(message)s" for kind in ("FLOW", "TASK")
    }
    for key, value in {**process.QUIET, "PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "INFO", **short}.items():
        os.environ.setdefault(key, value)
    return home


def _import(home: Path) -> None:
    """Imports Prefect, which reads its settings then: the environment as it is now, `.env` and `prefect.toml` where it stands."""
    with contextlib.chdir(home):
        import prefect.main  # noqa: F401


def _deliver() -> None:
    """Sends what this process still has to report, before the server it reports to ends."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        for worker in (APILogWorker, EventsWorker):
            worker.drain_all(timeout=10)
