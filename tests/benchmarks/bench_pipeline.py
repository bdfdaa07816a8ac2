"""What the pipeline costs beside the stages' own compute: per stage, and broken down.

    python -m tests.benchmarks.bench_pipeline

Onboards small tasks with `otmf onboard` and compares the wall seconds of each Prefect task with the seconds the stage
itself computed; then times the parts: imports, a cold and a warm stage, DVC, Prefect's server, MLflow's first use.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from flows.programs import process, warm
from flows.services import prefect_server
from tests import makers
from tests.benchmarks import machine

OTMF = str(Path(sys.executable).parent / "otmf")


def main() -> None:
    print(machine.heading("What the pipeline costs beside the stages", "python -m tests.benchmarks.bench_pipeline"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = makers.line(folder / "small")
        whole, stages = [], {}
        for number in range(1, 5):
            card = makers.card(folder / "cards", f"task{number}", seed=number)
            begun = time.perf_counter()
            text = subprocess.run([OTMF, "onboard", str(card), "--line", str(root)], stdout=subprocess.PIPE, text=True, check=True,
                                  stderr=subprocess.STDOUT, env=process.environment()).stdout  # fmt: skip
            whole.append(time.perf_counter() - begun)
            for stage, seconds in overheads(text).items():
                stages.setdefault(stage, []).append(seconds)
        print(machine.table(["stage", "seconds beside its compute, median", "least", "greatest"],
                            [[stage, *(f"{f(found):.1f}" for f in (statistics.median, min, max))] for stage, found in stages.items()]))  # fmt: skip
        rows = [["`otmf onboard`, whole, small task", statistics.median(whole)]]
        rows += parts(root)
    print(machine.table(["part", "seconds"], [[part, f"{seconds:.2f}"] for part, seconds in rows]))


def overheads(text: str) -> dict[str, float]:
    """Stage -> wall seconds between the lines around it less what it computed itself; from the log's own times."""
    found, last = {}, None
    for line in text.splitlines():
        stamp = re.match(r"(\d\d:\d\d:\d\d(?:\.\d+)?) ", line)
        if not stamp:
            continue
        form = "%H:%M:%S.%f" if "." in stamp.group(1) else "%H:%M:%S"
        now = datetime.strptime(stamp.group(1), form)
        own = re.search(r" (\w+) ?\S*: done in ([\d.]+) s$", line)
        if own and last:
            found[own.group(1)] = -float(own.group(2))
        ended = re.search(r" (\S+): (ran|unchanged|restored)$", line)
        if ended:
            stage = ended.group(1).partition("@")[0].replace("-", "_")
            if ended.group(2) == "ran" and last:
                found[stage] = found.get(stage, 0.0) + (now - last).total_seconds()
            last = now
        if " admit " in line:
            last = now
    return found


def parts(root: Path) -> list[list[object]]:
    def timed(command: list[str], folder: Path = root, **extra: str) -> float:
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run(command, cwd=folder, env=process.environment(extra), capture_output=True, check=True)
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds)

    python = sys.executable
    rows: list[list[object]] = [[f"import {name}", timed([python, "-c", f"import {name}"])]
                                for name in ("sys", "torch", "open_clip", "otmf.objectives.transport", "mlflow", "prefect", "dvc.cli")]  # fmt: skip
    rows.append(["stage `extract`, cold", timed([python, "-m", "stages", "extract", "task1"])])
    with warm.interpreter() as environment:
        subprocess.run([python, "-m", "stages", "extract", "task1"], cwd=root, env=process.environment(environment), check=True,
                       capture_output=True)  # fmt: skip
        rows.append(
            ["stage `extract`, warm interpreter", timed([python, "-m", "stages", "extract", "task1"], **environment)]
        )
    rows.append(
        ["`dvc repro -s` of a stage that is up to date", timed([python, "-m", "dvc", "repro", "-s", "pretrained"])]
    )
    rows.append(["`dvc status` of the line", timed([python, "-m", "dvc", "status"])])
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as home, prefect_server.own(Path(home)):
        rows.append(["Prefect server of one command, first start", time.perf_counter() - begun])
    return rows


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)
    main()
