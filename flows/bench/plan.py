"""What a configuration of `otmf bench` asks for: its runs, those that are done, and how long the others may take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from flows.bench import inputs
from flows.bench import rows as bench_rows
from flows.line import workspace
from flows.programs import plain_yaml
from flows.services import tracking
from otmf import settings
from otmf.evaluation import protocol
from otmf.runtime import foreign_parsers, layout, strict_yaml

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


def _require_beside(line: layout.Layout, folder: Path) -> None:
    """Refuses results among the line's own files."""
    root = line.root.resolve()
    if folder == root or any((root / own) in (folder, *folder.parents) for own in OWN):
        raise settings.SettingsError(
            f"expected a folder of their own for the results; received {folder}, which holds files of the line; name another with --results"
        )


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
