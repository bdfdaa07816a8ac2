"""The parts of a production set-up, each real and on loopback: PostgreSQL, both servers on it, remotes, agents."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from flows.programs import process

NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven idle processes otherwise
CODE = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def programs() -> Path:
    """The folder of PostgreSQL's programs; skips the test where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    if shutil.which("initdb"):
        return Path(shutil.which("initdb")).parent
    pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")


def owner_of(folder: Path) -> dict[str, object]:
    """Gives a folder to PostgreSQL's own user where we are root; what to hand to a process for it to run as that user."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A cluster of its own, trusted on loopback; yields host and port. PostgreSQL does not run as root: its own user does."""
    folder = Path(tempfile.mkdtemp(prefix="otmf-postgres-", dir="/tmp"))
    bin_, port, become = programs(), free_port(), owner_of(folder)
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, **become}
    data = str(folder / "data")
    subprocess.run([bin_ / "initdb", "-D", data, "-U", "otmf", "--auth=trust", "--no-sync"], check=True, **quiet)
    start = [bin_ / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(start, stderr=log, start_new_session=True, **quiet)
    try:
        for _ in range(100):
            ready = [bin_ / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            if subprocess.run(ready, check=False).returncode == 0:
                break
            time.sleep(0.2)
        for name in ("prefect", "mlflow"):
            subprocess.run([bin_ / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "otmf", name], check=True)
        yield f"127.0.0.1:{port}"
    finally:
        process.end(server)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(
    command: list[object], folder: Path, *, url: str | None = None, **environment: str
) -> Iterator[subprocess.Popen]:
    """A long-lived process with its log in a folder of its own; waits until its address answers."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {key: value for key, value in {**process.environment(), **environment}.items() if value}
    with (folder / "log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)], env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while url is not None and not answers(url):
            if started.poll() is not None or time.monotonic() > end:
                raise AssertionError((folder / "log").read_text()[-3000:])
            time.sleep(0.2)
        yield started
    finally:
        process.end(started)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).is_success
    return False


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Waits for a condition; an assertion that does not hold if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


@contextlib.contextmanager
def prefect_server(folder: Path, database: str, **environment: str) -> Iterator[str]:
    """The API address of a Prefect server on PostgreSQL at a host and port."""
    port = free_port()
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    own = {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://otmf@{database}/prefect",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    with running(command, folder, url=f"http://127.0.0.1:{port}/api/health", **own, **environment):
        yield f"http://127.0.0.1:{port}/api"


@contextlib.contextmanager
def mlflow_server(folder: Path, database: str) -> Iterator[str]:
    """The address of an MLflow server on PostgreSQL that passes artifacts through."""
    port = free_port()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", 1, "--backend-store-uri",
               f"postgresql://otmf@{database}/mlflow", "--artifacts-destination", folder / "artifacts"]  # fmt: skip
    with running(command, folder, url=f"http://127.0.0.1:{port}/health", **NO_JOBS):
        yield f"http://127.0.0.1:{port}"


def worker(
    folder: Path, pool: str, *options: object, **environment: str
) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """A worker with a home of its own."""
    command = ["flows.cli.main", "worker", "--pool", pool, *options]
    own = {"HOME": str(folder), "PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    return running(command, folder, **own, **environment)


def agent(
    folder: Path, remote: Path, *options: object, **environment: str
) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """A worker of the pool gpu with its own clone of the line and its own copy of the code; nothing else is shared."""
    subprocess.run(["git", "clone", "--quiet", str(remote), str(folder / "clone")], check=True)
    for part in ("otmf", "stages", "flows"):
        shutil.copytree(CODE / part, folder / "code" / part, ignore=shutil.ignore_patterns("__pycache__"))
    own = {"PYTHONPATH": f"{folder / 'code'}{os.pathsep}{CODE}", "OTMF_LINE": str(folder / "clone")}
    return worker(folder, "gpu", *options, **own, **environment)


def remotes(root: Path, folder: Path) -> Path:
    """Gives a line a bare git repository and a folder as its DVC remote; returns the repository."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    bare = folder / "line.git"
    subprocess.run([*git, "init", "--quiet", "--bare", "--initial-branch", "main", str(bare)], check=True)
    dvc = [sys.executable, "-m", "dvc", "remote", "add", "--quiet", "--default", "shared", str(folder / "dvc")]
    subprocess.run(dvc, check=True, cwd=root)
    subprocess.run([*git, "commit", "--quiet", "--all", "--message", "Name the DVC remote"], check=True, cwd=root)
    subprocess.run([*git, "remote", "add", "origin", str(bare)], check=True, cwd=root)
    subprocess.run([*git, "push", "--quiet", "origin", "main"], check=True, cwd=root)
    return bare
