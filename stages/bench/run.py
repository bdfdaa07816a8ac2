"""One run of `otmf bench`, in a process of its own so that its memory is its own: a method over one order of the line's experts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from otmf import settings
from stages.bench import line_bench
from stages.context import current_line, shared_files
from stages.context.run import say

TRACKED = False


def main(line: current_line.Line, asked: str, answer: str) -> None:
    """Reads what is asked (JSON) and writes the rows, or base's and experts' accuracies where no method is asked for."""
    begun, wanted = time.perf_counter(), shared_files.read_json(Path(asked))
    torch.set_num_threads(wanted["threads"])
    run = wanted.get("run")
    bench = line_bench.Bench(
        line,
        wanted["tasks"],
        hold=False,
        held_out=wanted["held_out"],
        seed=wanted["seed"],
        kept=line.private / "kept",
    )
    found: list[dict[str, Any]] | dict[str, Any] = bench.references() if run is None else _rows(bench, run)
    about = {"device": bench.where.type, "dtype": _dtype(bench), "threads": torch.get_num_threads(),
             "run_seconds": time.perf_counter() - begun}  # fmt: skip
    shared_files.write_json(Path(answer), {"found": found, "about": about})


def _rows(bench: line_bench.Bench, run: dict[str, Any]) -> list[dict[str, Any]]:
    options = settings.merge("default", run["merge"])
    if run["joint"]:
        rows = bench.run_joint(options)
    else:
        heads = [settings.section(settings.HeadTune, found) for found in run["heads"]]
        rows = bench.run(options, heads, run["tasks"], every_step=run["after"] == "every_step")
    last = [row["accuracy"] for row in rows if row["step"] == len(bench.tasks)]
    say(f"{run['method']}, order {run['order']}, seed {run['seed']}: ACC {sum(last) / len(last):.3f}")
    return rows


def _dtype(bench: line_bench.Bench) -> str:
    kinds = {
        str(value.dtype).removeprefix("torch.") for value in bench.pretrained.values() if value.is_floating_point()
    }
    return "+".join(sorted(kinds))
