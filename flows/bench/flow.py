"""The flow of `otmf bench`: one task for each run, spread by Dask."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect_dask import DaskTaskRunner

from flows.bench import one_run
from flows.bench import rows as bench_rows
from flows.programs.failures import WorkspaceError
from flows.services import run_logs
from otmf.runtime import errors


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{name}")
def one(root: str, asked: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of one run, from a process of its own."""
    return one_run.rows(Path(root), asked)


logging.getLogger("distributed").setLevel(logging.WARNING)  # its comings and goings are not the user's


def bench(root: str, folder: str, asked: list[dict[str, Any]], workers: int, cluster: str | None) -> None:
    """Runs what is asked for on local processes or a Dask cluster; rows are written as each run ends."""
    runner = (
        DaskTaskRunner(address=cluster) if cluster else DaskTaskRunner(cluster_kwargs=_local(min(workers, len(asked))))
    )
    _bench.with_options(task_runner=runner)(root, folder, asked)


@flow(name="bench", validate_parameters=False)
def _bench(root: str, folder: str, asked: list[dict[str, Any]]) -> None:
    say, begun, failed, done = run_logs.lines(), time.monotonic(), [], {}
    longest_first = sorted(asked, key=lambda run: -(run["seconds"] or 0))
    by_future = {one.submit(root, run, run["name"]): run for run in longest_first}
    for count, future in enumerate(as_completed(list(by_future)), start=1):
        run = by_future[future]
        try:
            rows = future.result()
            bench_rows.write(Path(folder), run["name"], rows, identity=run["identity"])
        except Exception as error:
            failed.append(f"{run['name']}: {errors.sentence(error)}")
            say(f"[{count}/{len(asked)}] {failed[-1]}")
            continue
        done[run["name"]] = rows[0]["run_seconds"]
        left = seconds_left(asked, done, time.monotonic() - begun) / 60
        say(f"[{count}/{len(asked)}] {run['name']}: {_said(run, rows)}; about {max(left, 1):.0f} min left")
    if failed:
        raise WorkspaceError(
            f"expected {len(asked)} runs to end well; received {len(failed)} that did not, the first {failed[0]}; the others are kept: run it again"
        )


def seconds_left(asked: list[dict[str, Any]], done: dict[str, float], elapsed: float) -> float:
    """How long the runs that are left may take: as others of their method did, else as was thought before, else as the mean of all; as many at a time
    as so far.

    Args:
        asked: all runs, with `name`, `run` (with `method`, or None) and `seconds` (None: unknown).
        done: name -> seconds of those that ended.
        elapsed: seconds since the first began.
    """

    def method(run: dict[str, Any]) -> str:
        return "" if run["run"] is None else run["run"]["method"]

    taken: dict[str, list[float]] = {}
    for run in asked:
        if run["name"] in done:
            taken.setdefault(method(run), []).append(done[run["name"]])
    mean = sum(done.values()) / len(done)

    def guess(run: dict[str, Any]) -> float:
        own = taken.get(method(run))
        return sum(own) / len(own) if own else mean if run["seconds"] is None else run["seconds"]

    at_a_time = max(sum(done.values()) / elapsed, 0.5) if elapsed else 1.0
    return sum(guess(run) for run in asked if run["name"] not in done) / at_a_time


def _said(run: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    seconds = f"{rows[0]['run_seconds']:.0f} s"
    if run["run"] is None:
        return seconds
    last = [row["accuracy"] for row in rows if row["step"] == len(run["tasks"]) and row["heads"] == rows[0]["heads"]]
    return f"ACC {100 * sum(last) / len(last):.1f} % (heads {rows[0]['heads']}), {seconds}"


def _local(workers: int) -> dict[str, Any]:
    """Processes of this machine; what a run needs of memory is its own process's, which Dask does not see."""
    return {
        "n_workers": workers,
        "threads_per_worker": 1,
        "processes": True,
        "memory_limit": 0,
        "dashboard_address": ":0",  # a port that is free
        "preload": "flows.bench.worker",
    }
