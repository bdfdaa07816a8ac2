"""`otmf bench`: every method of a plan over its orders and seeds, as tasks of Prefect on Dask; rows first, then tables."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flows.bench import inputs, tables
from flows.bench import rows as bench_rows
from flows.bench.plan import Plan, cores
from flows.line import workspace
from flows.programs import git, release, warm
from flows.services import prefect_server
from otmf.evaluation import protocol
from otmf.runtime import layout

ALL_ROWS = "rows.parquet"
LOCK = ".lock"


def run(planned: Plan, *, workers: int | None, cluster: str | None) -> Path:
    """Runs what is left, writes the tables, and returns the folder.

    Args:
        workers: processes of this machine; None: one for each core.
        cluster: address of a Dask scheduler instead, whose workers have otmf and find the line at the same path.

    Raises:
        WorkspaceError: naming the runs that failed, once all others are done; what is done is kept.
    """
    planned.folder.mkdir(parents=True, exist_ok=True)
    with _alone(planned.folder):
        for part in (planned.folder / "rows").glob("*.part"):
            part.unlink()
        if planned.left or bench_rows.REFERENCES not in planned.finished:
            inputs.require_as_locked(planned.line, workspace.params(planned.line), planned.tasks)
            with _reachable(planned.line, cluster), contextlib.nullcontext() if cluster else warm.interpreter():
                _flow(planned, workers, cluster)
        names = [run.name for run in planned.runs]
        rows = bench_rows.gather(planned.folder, names)
        bench_rows.keep(planned.folder / ALL_ROWS, rows)
        references = bench_rows.gather(planned.folder, [bench_rows.REFERENCES])
        tables.write(planned.folder, rows, references, title=_title(planned))
        _record(planned)
    return planned.folder


def _flow(planned: Plan, workers: int | None, cluster: str | None) -> None:
    from flows.bench.flow import bench  # Prefect reads its settings when it is imported

    asked = [_asked(planned, None), *(_asked(planned, run) for run in planned.left)]
    if bench_rows.REFERENCES in planned.finished:
        del asked[0]
    bench(str(planned.line.root), str(planned.folder), asked, workers or cores(), cluster)


def _asked(planned: Plan, run: protocol.Run | None) -> dict[str, Any]:
    """What one process is to do, in plain values; without a run, the accuracies of base and experts."""
    first = planned.runs[0]
    name = bench_rows.REFERENCES if run is None else run.name
    columns = {"line": workspace.params(planned.line).line, "commit": git.run(planned.line.root, "rev-parse", "HEAD").strip()[:12],
               "release": release.release()}  # fmt: skip
    if run is not None:
        columns |= {"method": run.method, "order": run.order, "seed": run.seed, "tasks": " ".join(run.tasks), "joint": run.joint,
                    "settings": json.dumps(run.merge, sort_keys=True)}  # fmt: skip
    return {
        "name": name,
        "identity": planned.identities[name],
        "tasks": list(planned.tasks if run is None or run.joint else run.tasks),
        "run": None if run is None else asdict(run),
        "held_out": first.held_out,
        "seed": first.seed if run is None else run.seed,
        "threads": 1,
        "columns": columns,
        "seconds": planned.seconds.get(name),
    }


def _record(planned: Plan) -> None:
    """What was asked for, and the splits of the tasks with their counts and hashes, beside the rows."""
    splits = [json.loads(planned.line.manifest(task).read_text(encoding="utf-8")) for task in planned.tasks]
    content = {"protocol": planned.protocol.model_dump(mode="json"), "runs": planned.identities, "splits": splits}
    part = planned.folder / "bench.json.part"
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(planned.folder / "bench.json")


def _title(planned: Plan) -> dict[str, Any]:
    rule = planned.protocol.data
    return {
        "line": workspace.params(planned.line).line,
        "tasks": planned.tasks,
        "scored": planned.protocol.score,
        "orders": len({run.order for run in planned.runs}),
        "seeds": len(planned.protocol.seeds),
        "new": rule.new,
        "old": rule.old,
        "labels": rule.labels,
    }


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise workspace.WorkspaceError(
            f"expected {folder} to be free; received a folder that another `otmf bench` writes into; wait for it, or name another with --results"
        ) from error


@contextlib.contextmanager
def _reachable(line: layout.Layout, cluster: str | None) -> Iterator[None]:
    """A Prefect server that the workers reach: with a cluster, one that the environment names."""
    with prefect_server.reached(line) if cluster else prefect_server.connected(line):
        yield
