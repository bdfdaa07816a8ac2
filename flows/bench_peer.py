"""`otmf bench --peer`: our merge methods beside FusionBench's on the tasks of a configuration, for difference and time."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pandas as pd

from flows import bench, bench_rows, console, process, templates

ROWS, TABLE = "peer.parquet", "peer.md"
REPEAT = 3


def run(planned: bench.Plan) -> Path:
    """Compares, in the first of the configuration's orders, writes rows and a table into the folder of results, and returns it.

    Raises:
        ProcessError: with its sentence, if it fails: where FusionBench is not installed, say.
    """
    tasks = planned.runs[0].tasks
    planned.folder.mkdir(parents=True, exist_ok=True)
    with bench.alone(planned.folder), tempfile.TemporaryDirectory(prefix="otmf-peer-") as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "answer.json"
        question.write_text(json.dumps({"tasks": tasks, "threads": 1, "repeat": REPEAT}), encoding="utf-8")
        command = [sys.executable, "-m", "stages", "peer", str(question), str(answer)]
        process.pump(command, folder=planned.line.root, log=console.err.print)
        rows = pd.DataFrame(json.loads(answer.read_text(encoding="utf-8")))
        bench_rows.keep(planned.folder / ROWS, rows)
        page = templates.environment().get_template("peer.md.j2")
        part = planned.folder / f"{TABLE}.part"
        part.write_text(page.render(rows=rows.to_dict("records"), tasks=tasks, repeat=REPEAT), encoding="utf-8")
        part.replace(planned.folder / TABLE)
    return planned.folder / TABLE
