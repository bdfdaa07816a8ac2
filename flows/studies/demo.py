"""The demonstration: the main job on embedded data, in a line of its own. Run again, it finds nothing to do."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from flows.changes import series
from flows.dvc import staleness
from flows.line import workspace
from flows.programs import warm
from flows.studies import compare, report
from otmf import settings
from otmf.runtime import layout

TASKS = ("digits", "photos", "glyphs", "shapes", "textures")
NEWCOMER = "dice"
ORDERS = 3


def run(folder: Path, out: Console) -> None:
    """Makes the line where it is missing, onboards the tasks it lacks, compares the methods, writes the report."""
    begun = time.perf_counter()
    new = not (folder / "params.yaml").exists()
    if new or not _complete(workspace.open_line(folder)):
        with warm.interpreter():  # it loads while the line is made
            if new:
                out.rule("A new line of models")
                workspace.create(folder, name="demo")
            _complete_now(workspace.open_line(folder), out)
    line = workspace.open_line(folder)
    stale = staleness.reasons(line)
    report.write(line, line.root / "report.html")
    out.print(compare.table(line))
    out.print("Everything is up to date." if not stale else f"Not up to date: {', '.join(stale)}")
    out.print(f"Report: {line.root / 'report.html'}")
    if NEWCOMER not in workspace.params(line).tasks:
        out.print(f"Next, a sixth task: .venv/bin/otmf onboard {card(NEWCOMER)} --line {folder}")
    out.print(f"Done in {time.perf_counter() - begun:.0f} s.")


def card(task: str) -> Path:
    """The card of an embedded task."""
    return workspace.template() / f"data/cards/{task}.yaml"


def compared(line: layout.Layout) -> bool:
    """Whether the comparison covers the demonstration's tasks."""
    params = workspace.params(line)
    tasks = [params.steps[name].task for name in settings.chain(params.steps)]
    return line.compared.exists() and list(compare.references(line)) == tasks[: len(TASKS)]


def _missing(line: layout.Layout) -> list[str]:
    return [task for task in TASKS if task not in workspace.params(line).tasks]


def _complete(line: layout.Layout) -> bool:
    return not _missing(line) and compared(line)


def _complete_now(line: layout.Layout, out: Console) -> None:
    missing = _missing(line)
    if missing:
        series.onboard(line, [card(task) for task in missing], out)
    if not compared(line):
        out.rule(f"OTMF beside other methods, {ORDERS} task orders")
        compare.run(line, orders=ORDERS, log=out.print)
