"""The demonstration: the main job on embedded data, in a line of its own. Run again, it finds nothing to do."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from flows import compare, report, warm, workspace
from flows.onboard import onboard
from otmf import layout, settings

TASKS = ("digits", "photos", "glyphs", "shapes", "textures")
ORDERS = 3


def run(folder: Path, out: Console) -> None:
    """Onboards the tasks it lacks, compares the methods, writes the report."""
    begun = time.perf_counter()
    line = workspace.open_line(folder)
    with warm.interpreter() as environment:
        for task in TASKS:
            if task in workspace.params(line).tasks:
                continue
            out.rule(f"Task {task} arrives")
            onboard(str(line.root), str(card(task)), environment)
        if not up_to_date(line):
            out.rule(f"Every method of the table, {ORDERS} task orders")
            compare.run(line, orders=ORDERS, log=out.print, extra=environment)
    report.write(line, line.root / "report.html")
    out.print(compare.table(line))
    out.print(f"Report: {line.root / 'report.html'}")
    out.print(f"Done in {time.perf_counter() - begun:.0f} s.")


def card(task: str) -> Path:
    """The card of an embedded task."""
    return workspace.template() / f"data/cards/{task}.yaml"


def up_to_date(line: layout.Layout) -> bool:
    """Whether the comparison covers the demonstration's tasks."""
    params = workspace.params(line)
    tasks = [params.steps[name].task for name in settings.chain(params.steps)]
    return (line.root / compare.RESULT).exists() and list(compare.references(line)) == tasks[: len(TASKS)]
