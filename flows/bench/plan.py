"""`otmf bench`: every method of a configuration over its orders and seeds, as tasks of Prefect on Dask; rows first, then tables."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.table import Table

from flows.bench import inputs, tables
from flows.bench import rows as bench_rows
from flows.line import workspace
from flows.programs import git, plain_yaml, process, release, warm
from flows.services import prefect_server, tracking
from otmf import settings
from otmf.evaluation import protocol
from otmf.runtime import foreign_parsers, layout, strict_yaml

ALL_ROWS = "rows.parquet"
LOCK = ".lock"
OWN = ("data", "metrics", ".git", ".dvc", ".otmf")  # folders of a line that results may not lie in


@dataclass(frozen=True)
class Plan:
    """What a configuration asks for.

    Attributes:
        line: whose experts are merged.
        folder: of the results.
        protocol: the configuration, checked.
        tasks: in the line's order.
        runs: all of them.
        identities: name of a run -> hash of what decides its rows.
        finished: names of the runs whose rows are there.
        seconds: name of each run still to do -> how long it may take; None where nothing of the kind was ever run.
    """

    line: layout.Layout
    folder: Path
    protocol: protocol.Protocol
    tasks: tuple[str, ...]
    runs: list[protocol.Run]
    identities: dict[str, str]
    finished: set[str]
    seconds: dict[str, float | None]

    @property
    def left(self) -> list[protocol.Run]:
        return [run for run in self.runs if run.name not in self.finished]


def plan(config: Path, results: Path | None, line: Path | None = None) -> Plan:
    """Reads and checks a configuration, and what is there of it already. Runs nothing.

    Args:
        config: the file.
        results: folder of the results; None: named after the file.
        line: folder of the line; None: the one that the file names, or else the working directory.

    Raises:
        SettingsError, WorkspaceError: naming what is wrong with it, the line or the folder of results.
    """
    if not config.is_file():
        raise settings.SettingsError(
            f"expected a YAML file; received {config}, {'a folder' if config.is_dir() else 'which is not there'}; name the configuration"
        )
    with foreign_parsers.reading(lambda reason: workspace.not_yaml(config.name, reason)):
        text = config.read_text(encoding="utf-8")
    content = strict_yaml.loads(text, lambda reason: workspace.not_yaml(config.name, reason), load=plain_yaml.load)
    asked = protocol.check(content)
    line = workspace.open_line(line or (Path() if asked.line is None else config.parent / asked.line))
    params = workspace.params(line)
    known = [params.steps[step].task for step in settings.chain(params.steps)]
    runs = protocol.runs(asked, known)
    tasks = tuple(known) if asked.tasks is None else asked.tasks
    if asked.score == "validation":
        inputs.require_left(line, tasks, asked.data.new)
    folder = (results or config.with_suffix("")).resolve()
    if folder.exists() and not folder.is_dir():
        raise settings.SettingsError(
            f"expected a folder for the results; received the file {folder}; name a folder with --results"
        )
    _require_beside(line, folder)
    identities = {bench_rows.REFERENCES: _of_references(asked, tasks, line, params)} | bench_rows.identities(
        runs, inputs.digests(line, params, tasks)
    )
    finished = bench_rows.finished(folder, identities)
    return Plan(
        line, folder, asked, tasks, runs, identities, finished, _estimates(line, params, runs, folder, finished)
    )


def run(planned: Plan, *, workers: int | None, cluster: str | None) -> Path:
    """Runs what is left, writes the tables, and returns the folder.

    Args:
        workers: processes of this machine; None: one for each core.
        cluster: address of a Dask scheduler instead, whose workers have otmf and find the line at the same path.

    Raises:
        WorkspaceError: naming the runs that failed, once all others are done; what is done is kept.
    """
    planned.folder.mkdir(parents=True, exist_ok=True)
    with alone(planned.folder):
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


def _require_beside(line: layout.Layout, folder: Path) -> None:
    """Refuses results among the line's own files."""
    root = line.root.resolve()
    if folder == root or any((root / own) in (folder, *folder.parents) for own in OWN):
        raise settings.SettingsError(
            f"expected a folder of their own for the results; received {folder}, which holds files of the line; name another with --results"
        )


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


def one(root: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one run, computed by a process of its own.

    Raises:
        ProcessError: with its sentence, if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="otmf-bench-") as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(asked), encoding="utf-8")
        process.pump(
            [sys.executable, "-m", "stages", "bench", str(question), str(answer)], folder=root, log=lambda text: None
        )
        said = json.loads(answer.read_text(encoding="utf-8"))
    if asked["run"] is None:
        found = [{"task": task, **accuracies} for task, accuracies in said["found"].items()]
    else:
        found = said["found"]
    return [{**asked["columns"], **row, **said["about"]} for row in found]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _of_references(asked: protocol.Protocol, tasks: Sequence[str], line: layout.Layout, params: settings.Params) -> str:
    frozen = protocol.Run(bench_rows.REFERENCES, "", tuple(tasks), asked.seeds[0], {}, (), False,
                          asked.data.new if asked.score == "validation" else None, "")  # fmt: skip
    return frozen.identity(inputs.digests(line, params, tasks))


def _estimates(
    line: layout.Layout, params: settings.Params, runs: Sequence[protocol.Run], folder: Path, finished: set[str]
) -> dict[str, float | None]:
    """How long each run that is left may take: as others of its method did here, else from what the line's own stages took."""
    known: dict[str, list[float]] = {}
    for run in runs:
        if run.name in finished:
            rows = bench_rows.gather(folder, [run.name])
            known.setdefault(run.method, []).append(float(rows["run_seconds"].iloc[0]))
    taken = _of_stages(line, params)
    return {
        run.name: sum(known[run.method]) / len(known[run.method])
        if run.method in known
        else _estimate(run, taken, params)
        for run in runs
        if run.name not in finished
    }


def _of_stages(line: layout.Layout, params: settings.Params) -> dict[str, float]:
    order = settings.chain(params.steps)
    wanted = [f"{kind}@{step}" for step in order for kind in ("merge-step", "evaluate")]
    try:
        return tracking.seconds(tracking.prepare(line, params.line), wanted) if tracking.there(line) else {}
    except (
        Exception
    ):  # a store that does not answer or is damaged fails in many ways: the time is unknown then, and no more
        return {}


def _estimate(run: protocol.Run, taken: dict[str, float], params: settings.Params) -> float | None:
    order = settings.chain(params.steps)
    scoring = [
        taken[f"evaluate@{step}"] / place for place, step in enumerate(order, start=1) if f"evaluate@{step}" in taken
    ]
    merging = [
        taken[f"merge-step@{step}"] / max(getattr(params.steps[step].merge, "steps", 0), 1)
        for step in order[1:]
        if f"merge-step@{step}" in taken
    ]
    if not scoring or not merging:
        return None
    count = len(run.tasks)
    scored = count if run.joint else count * (count + 1) / 2 if run.after == "every_step" else 2 * count - 1
    return scored * sum(scoring) / len(scoring) + count * run.merge.get("steps", 10) * sum(merging) / len(merging)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
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


def table(planned: Plan, workers: int | None) -> Table:
    """The runs by method: how many, how many are done, and the minutes of those left on one process."""
    shown = Table(
        title=f"{len(planned.runs)} runs over {len(planned.tasks)} tasks, {len({run.order for run in planned.runs})} orders"
    )
    for column in ("method", "of", "heads", "runs", "done", "minutes left"):
        shown.add_column(column, justify="left" if column in ("method", "of", "heads") else "right")
    for name in dict.fromkeys(run.method for run in planned.runs):
        own = [run for run in planned.runs if run.method == name]
        left = [run for run in own if run.name not in planned.finished]
        minutes = _minutes(planned, left)
        merges = dict.fromkeys(", ".join(found["heads"] for found in run.heads) for run in own)
        shown.add_row(name, own[0].merge["method"] + (", all at once" if own[0].joint else ""), " / ".join(merges), str(len(own)), str(len(own) - len(left)),
                      "unknown" if minutes is None else f"{minutes:.1f}")  # fmt: skip
    return shown


def summary(planned: Plan, workers: int | None) -> str:
    """What is left, in a sentence."""
    count, minutes = workers or cores(), _minutes(planned, planned.left)
    took = (
        "nothing of a kind was run here before, so the time is unknown"
        if minutes is None
        else f"about {max(minutes / count, 1 if planned.left else 0):.0f} min"
    )
    return f"{len(planned.left)} of {len(planned.runs)} runs left; on {count} process{'es' if count > 1 else ''} {took}. Nothing was run."


def _minutes(planned: Plan, runs: Sequence[protocol.Run]) -> float | None:
    seconds = [planned.seconds[run.name] for run in runs]
    return None if None in seconds else sum(seconds) / 60
