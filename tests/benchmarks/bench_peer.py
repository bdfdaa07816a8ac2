"""Our merge methods beside FusionBench's, a public implementation, on the same task vectors: difference and time.

    python -m tests.benchmarks.bench_peer CONFIG [--repeat N]

CONFIG is a configuration of `otmf bench`; its tasks are taken in the first of its orders. Difference: norm of the difference of
the merged vectors over that of theirs, both in float64. Seconds: medians in float32, one thread, ours and theirs in turn; the
making of their models is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flows.bench import plan
from otmf import task_vectors
from otmf.checkpoints import low_rank
from stages.context import current_line, encoder, shared_files
from tests.benchmarks import machine, peer

CLOCK = time.perf_counter
COLUMNS = ("method", "difference", "ours, s", "theirs, s", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    planned = plan.plan(options.config, None)
    command = f"python -m tests.benchmarks.bench_peer {options.config.name} --repeat {options.repeat}"
    print(machine.heading("Merge methods beside FusionBench's", command))
    print(machine.table(COLUMNS, rows(current_line.read(planned.line.root), planned.runs[0].tasks, options.repeat)))


def rows(line: current_line.Line, tasks: Sequence[str], repeat: int) -> list[tuple[str, str, str, str, str]]:
    """A row of `COLUMNS` for each method that both have."""
    pretrained = task_vectors.floats(encoder.to(shared_files.load_pretrained(line), torch.device("cpu")))
    vectors = [low_rank.load_vector(line.task_vector(task) / "vector.safetensors", pretrained) for task in tasks]
    table = []
    for name, pair in peer.pairs().items():
        row = compared(pair, pretrained, vectors, repeat=repeat)
        ratio = f"{row['ratio']:.2f} [{row['least']:.2f}, {row['greatest']:.2f}]"
        seconds = (f"{row['seconds']:.3g}", f"{row['their_seconds']:.3g}")
        table.append((name, f"{row['difference']:.1e}", *seconds, ratio))
    return table


def compared(
    pair: peer.Pair, pretrained: Mapping[str, Tensor], vectors: Sequence[Mapping[str, Tensor]], *, repeat: int
) -> dict[str, Any]:
    """How far the merged vectors of both are apart, and what each took, in turn.

    Returns:
        `difference`: the norm of the difference of the merged vectors over that of theirs, both in float64, where rounding does not
        hide it; `seconds` and `their_seconds`: medians in float32; `ratio` of ours to theirs: median, `least` and `greatest`.
    """
    exact = [{key: value.double() for key, value in one.items()} for one in (pretrained, *vectors)]
    mine = peer.ours(pair, exact[0], exact[1:])
    other = _vector(_theirs(pair, exact[0], exact[1:])[1], exact[0])
    apart = task_vectors.norm({key: mine[key] - value for key, value in other.items()}) / task_vectors.norm(other)
    taken = [
        (_timed(lambda: peer.ours(pair, pretrained, vectors)), _theirs(pair, pretrained, vectors)[0])
        for _ in range(repeat)
    ]
    ratios = [own / their for own, their in taken]
    return {"difference": apart, "seconds": statistics.median(own for own, _ in taken),
            "their_seconds": statistics.median(their for _, their in taken), "ratio": statistics.median(ratios),
            "least": min(ratios), "greatest": max(ratios)}  # fmt: skip


def _theirs(
    pair: peer.Pair, pretrained: Mapping[str, Tensor], vectors: Sequence[Mapping[str, Tensor]]
) -> tuple[float, nn.Module]:
    """Seconds of their merge, the making of its models not counted, and the model merged."""
    names = [f"task{place}" for place in range(len(vectors))]
    models: dict[str, nn.Module] = {peer.PRETRAINED: peer.Model(pretrained)}
    for name, vector in zip(names, vectors, strict=True):
        models[name] = peer.Model({key: pretrained[key] + value for key, value in vector.items()})
    merged: list[nn.Module] = []
    seconds = _timed(lambda: merged.append(peer.theirs(pair, models, names)))
    return seconds, merged[0]


def _vector(model: peer.Model, pretrained: Mapping[str, Tensor]) -> task_vectors.Vector:
    return {key: value - pretrained[key] for key, value in model.state(pretrained).items()}


def _timed(work: Callable[[], object]) -> float:
    begun = CLOCK()
    work()
    return CLOCK() - begun


if __name__ == "__main__":
    main()
