"""Stage `compare`: every method of a list over several orders of the line's experts."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
from concurrent.futures import ProcessPoolExecutor

import torch

from otmf import settings
from otmf.evaluation import metrics
from stages.bench import line_bench
from stages.context import current_line, shared_files
from stages.context.run import Facts, say

SETTINGS = "data/compare/compare.yaml"


def main(line: current_line.Line) -> Facts:
    wanted = current_line.load_yaml(line.root / SETTINGS)
    torch.set_num_threads(1)
    bench = line_bench.Bench(line, wanted["tasks"])
    jobs = [
        (name, options, seed)
        for name, options in wanted["methods"].items()
        for seed in options.get("orders", wanted["orders"])
    ]
    rows = [row for found in _spread(bench, jobs, min(_cores(), len(jobs))) for row in found]
    references = bench.references()
    untimed = [{key: value for key, value in row.items() if key not in ("seconds", "peak_memory_mib")} for row in rows]
    shared_files.write_json(line.compared, {"tasks": wanted["tasks"], "references": references, "rows": untimed})
    facts = Facts(inputs=[line.pretrained], outputs=[line.compared], parameters={"orders": wanted["orders"]})
    for row in rows:
        facts.metrics[f"acc/{row['method']}/{row['heads']}/{row['seed']}"] = row["acc"]
        facts.metrics[f"seconds/{row['method']}/{row['seed']}"] = row["seconds"]
    facts.metrics["peak_memory_mib_of_all"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return facts


def _spread(bench: line_bench.Bench, jobs: list[tuple], workers: int) -> list[list[dict]]:
    """The rows of all jobs, run by forked processes of one thread each: the numbers do not depend on how many."""
    if workers == 1 or bench.where.type != "cpu":
        return [_run(bench, job) for job in jobs]
    longest_first = sorted(
        jobs, key=lambda job: -job[1]["merge"].get("steps", 0) * (job[1]["merge"]["method"] == "otmf")
    )
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("fork"), initializer=_adopt, initargs=(bench,)
    ) as pool:
        done = dict(zip(map(_key, longest_first), pool.map(_run_adopted, longest_first), strict=True))
    return [done[_key(job)] for job in jobs]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _key(job: tuple) -> tuple[str, int]:
    return job[0], job[2]


_adopted: line_bench.Bench | None = None


def _adopt(bench: line_bench.Bench) -> None:
    global _adopted
    _adopted = bench


def _run_adopted(job: tuple) -> list[dict]:
    return _run(_adopted, job)


def _run(bench: line_bench.Bench, job: tuple) -> list[dict]:
    name, options, seed = job
    heads = [settings.section(settings.HeadTune, found) for found in options["head_tune"]]
    order = list(bench.tasks)
    random.Random(seed).shuffle(order)
    found = bench.run(settings.merge("default", options["merge"]), heads, order)
    return [
        _summary(name, kind.heads, seed, order, [row for row in found if row["heads"] == kind.heads]) for kind in heads
    ]


def _summary(name: str, kind: str, seed: int, order: list[str], found: list[dict]) -> dict:
    matrix = metrics.accuracy_matrix(found)
    acc, bwt = metrics.average_accuracy(matrix), metrics.backward_transfer(matrix) if len(order) > 1 else None
    final = {row["task"]: row["accuracy"] for row in found if row["step"] == len(order)}
    say(f"compare: {name}, heads {kind}, order {seed}: ACC {acc:.3f}" + ("" if bwt is None else f", BWT {bwt:+.3f}"))
    seconds = sum({row["step"]: row["seconds"] for row in found}.values())
    return {"method": name, "heads": kind, "seed": seed, "order": order, "sees": found[0]["sees"], "acc": acc, "bwt": bwt,
            "seconds": seconds, "final": final}  # fmt: skip
