"""What the commands cost on a line of many tasks, with stages that take no time.

    python -m tests.benchmarks.bench_many_tasks [--tasks N [N ...]] [--folder DIR]

For each number of tasks: seconds of `otmf status`, of `otmf retrain --plan` with nothing to do, and of appending a task: `otmf
onboard` against a running Prefect server, less its own six stages. The growth is what counts. A line of a hundred tasks takes half an hour to make;
in a folder of one's own it is found again if a run ends before it is measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matplotlib.figure import Figure

from flows.changes import admission
from flows.dvc import commands, staleness
from flows.line import chain, workspace
from flows.programs import process
from flows.services import prefect_server, tracking
from otmf.data import cards, gathering
from otmf.runtime import layout
from tests import makers
from tests.benchmarks import machine, sleeping

ROOT = Path(__file__).resolve().parents[2]
OTMF = str(Path(sys.executable).parent / "otmf")


def grown(folder: Path, count: int) -> layout.Layout:
    """A line with a number of tasks, all its stages up to date; made stage by stage, not by onboarding each."""
    ready = layout.Layout(folder / f"line_{count}")
    if ready.root.exists():
        return ready
    line = layout.Layout(makers.line(folder / f"part_{count}"))
    sleeping.into(line)
    document = workspace.read_params(line)
    for number in range(1, count + 1):
        path = makers.card(folder / "cards", f"task_{number:03d}", seed=number)
        card = cards.read(path)
        gathering.gather(card, path.parent, line.raw(card.name))
        entry, merged = admission.entries(workspace.params(line).defaults, card)
        for section, key, value in (
            ("tasks", card.name, entry.model_dump(mode="json")),
            ("steps", f"s{number:02d}", {"task": card.name, "previous": f"s{number - 1:02d}", **merged}),
        ):
            if not document.get(section):
                document[section] = {}
            document[section][key] = value
        line.card(card.name).write_text(cards.dump(card), encoding="utf-8")
    workspace.write_params(line, document)
    process.run([sys.executable, "-m", "dvc", "add", "--quiet", *(str(line.raw(f"task_{n:03d}")) for n in range(1, count + 1))],
                folder=line.root)  # fmt: skip
    for number in range(1, count + 1):
        for stage, _ in chain.of_task(line, f"task_{number:03d}", f"s{number:02d}")[number > 1 :]:
            commands.stage(line.root, stage, log=lambda _: None)
    left = staleness.reasons(line)
    if left:
        raise SystemExit(f"expected a line that is up to date; received {list(left)[:3]}")
    workspace.commit(line.root, f"{count} tasks")
    line.root.rename(ready.root)
    return ready


def timed(*arguments: object) -> float:
    begun = time.perf_counter()
    subprocess.run([OTMF, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def row(folder: Path, count: int) -> list[object]:
    """Seconds of each command on a line of that many tasks."""
    line = grown(folder, count)
    tracking.prepare(line, workspace.params(line).line)  # every line that has tasks has its store
    print(f"{count} tasks made", flush=True)
    timed("status", "--line", line.root)
    status = timed("status", "--line", line.root)
    planned = timed("retrain", "--plan", "--line", line.root)
    append = timed("onboard", makers.card(folder / "cards", "one_more", seed=0), "--line", line.root)
    stages = sum(_bare(line, stage) for stage, _ in chain.of_task(line, "one_more", f"s{count + 1:02d}"))
    shutil.rmtree(line.root)
    return [count, f"{status:.1f}", f"{planned:.1f}", f"{append:.1f}", f"{append - stages:.1f}"]


def _bare(line: layout.Layout, stage: str) -> float:
    """What one stage costs under DVC alone, forced, on the same line."""
    begun = time.perf_counter()
    commands.stage(line.root, stage, log=lambda _: None, force=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 10, 30, 100])
    parser.add_argument("--plot", type=Path, help="SVG file of the growth")
    parser.add_argument("--folder", type=Path, help="keep lines that are made here")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as name:
        folder = (given.folder or Path(name)).resolve()
        with prefect_server.own(folder / "prefect") as url:
            os.environ |= {"PREFECT_API_URL": url, "PREFECT_HOME": str(folder / "prefect")}
            rows = [row(folder, count) for count in given.tasks]
    command = f"python -m tests.benchmarks.bench_many_tasks --tasks {' '.join(map(str, given.tasks))}"
    print(machine.heading("Commands on a line of many tasks", command))
    columns = [
        "tasks",
        "status, s",
        "plan with nothing to do, s",
        "append a task, s",
        "of it not its stages under DVC, s",
    ]
    print(machine.table(columns, rows))
    if given.plot:
        plotted(columns, rows).savefig(given.plot, metadata={"Date": None})


def plotted(columns: list[str], rows: list[list[object]]) -> Figure:
    """Seconds over the number of tasks, a line for each command."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    counts = [int(row[0]) for row in rows]
    for number, name in enumerate(columns[1:], start=1):
        axes.plot(counts, [float(row[number]) for row in rows], marker="o", label=name.removesuffix(", s"))
    axes.set(xlabel="tasks", ylabel="seconds", ylim=(0, None))
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
