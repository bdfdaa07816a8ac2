"""What a run leaves when its process dies: nothing that a kernel lock does not give back, and a word on the server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from filelock import FileLock, Timeout
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Crashed

from flows.line import workspace
from otmf.runtime import layout

STARTING = timedelta(minutes=5)


@contextlib.contextmanager
def free(line: layout.Layout, name: str) -> Iterator[bool]:
    """Holds a lock of the line if nobody else does; says whether."""
    line.private.mkdir(exist_ok=True)
    lock = FileLock(line.private / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def alive(line: layout.Layout) -> Iterator[None]:
    """Marks this flow run as one whose process lives, by a lock that ends with it."""
    path = _marks(line) / str(flow_run.id)
    lock = FileLock(path)
    with workspace.locked(line, patience=60, name="reaping"):
        lock.acquire(timeout=0)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def reap(line: layout.Layout) -> list[str]:
    """Tells the server of runs whose process died without a word, and drops looks at the inbox that came too late.

    Returns:
        The ids of the dead.
    """
    dead = []
    with workspace.locked(line, patience=60, name="reaping"), get_client(sync_client=True) as client:
        for path in sorted(_marks(line).iterdir()):
            lock = FileLock(path)
            with contextlib.suppress(Timeout), lock.acquire(timeout=0):
                dead.append(path.name)
                _crash(client, path.name)
                path.unlink()
        _drop(client)
    for name in dead:
        get_run_logger().warning(f"run {name} had died; what it was at is taken up again")
    return dead


def _marks(line: layout.Layout) -> Path:
    folder = line.private / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _crash(client: SyncPrefectClient, run: str) -> None:
    with contextlib.suppress(ValueError, ObjectNotFound):
        found = client.read_flow_run(UUID(run))
        if found.state is not None and not found.state.is_final():
            client.set_flow_run_state(found.id, Crashed(message="its process died without a word"), force=True)


def _drop(client: SyncPrefectClient) -> None:
    """Ends runs of this deployment that were due while no worker was there, and such as a dead worker had taken."""
    if deployment.id is None:
        return
    now = datetime.now(UTC)
    of_ours = {"deployment_id": {"any_": [deployment.id]}}
    late = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": now}}
    stuck = {"state": {"type": {"any_": ["PENDING"]}}, "expected_start_time": {"before_": now - STARTING}}
    for wanted, state in ((late, Cancelled(message="a later look came first")),
                          (stuck, Crashed(message="its worker died before it started"))):  # fmt: skip
        for run in _runs(client, {**of_ours, **wanted}):
            client.set_flow_run_state(run.id, state, force=True)


def _runs(client: SyncPrefectClient, wanted: dict) -> list[FlowRun]:
    return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted), limit=200)
