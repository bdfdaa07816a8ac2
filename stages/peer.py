"""`otmf bench --peer`: merge methods beside a public implementation of them, on the same state dicts, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from otmf import low_rank, task_vectors
from stages import _encoder, _files, _params, _peer
from stages._run import say

TRACKED = False
CLOCK = time.perf_counter


def main(line: _params.Line, asked: str, answer: str) -> None:
    """Reads what is asked (JSON) and writes a row for each method that both have."""
    wanted = _files.read_json(Path(asked))
    torch.set_num_threads(wanted["threads"])
    pairs = _peer.pairs()
    pretrained = task_vectors.floats(_encoder.to(_files.load_pretrained(line), torch.device("cpu")))
    vectors = [
        low_rank.load_vector(line.task_vector(task) / "vector.safetensors", pretrained) for task in wanted["tasks"]
    ]
    rows = []
    for name, pair in pairs.items():
        rows.append({"method": name, **compared(pair, pretrained, vectors, repeat=wanted["repeat"])})
        say(f"{name}: difference {rows[-1]['difference']:.1e}, {rows[-1]['ratio']:.2f} of their time")
    _files.write_json(Path(answer), rows)


def compared(
    pair: _peer.Pair, pretrained: Mapping[str, Tensor], vectors: Sequence[Mapping[str, Tensor]], *, repeat: int
) -> dict[str, Any]:
    """How far the merged vectors of both are apart, and what each took, in turn.

    Returns:
        `difference`: the norm of the difference of the merged vectors over that of theirs, both in float64, where rounding does not
        hide it; `seconds` and `their_seconds`: medians in float32; `ratio` of ours to theirs: median, `least` and `greatest`.
    """
    exact = [{key: value.double() for key, value in one.items()} for one in (pretrained, *vectors)]
    mine = _peer.ours(pair, exact[0], exact[1:])
    other = _vector(_theirs(pair, exact[0], exact[1:])[1], exact[0])
    apart = task_vectors.norm({key: mine[key] - value for key, value in other.items()}) / task_vectors.norm(other)
    taken = [
        (_timed(lambda: _peer.ours(pair, pretrained, vectors)), _theirs(pair, pretrained, vectors)[0])
        for _ in range(repeat)
    ]
    ratios = [own / their for own, their in taken]
    return {"difference": apart, "seconds": statistics.median(own for own, _ in taken),
            "their_seconds": statistics.median(their for _, their in taken), "ratio": statistics.median(ratios),
            "least": min(ratios), "greatest": max(ratios)}  # fmt: skip


def _theirs(
    pair: _peer.Pair, pretrained: Mapping[str, Tensor], vectors: Sequence[Mapping[str, Tensor]]
) -> tuple[float, nn.Module]:
    """Seconds of their merge, the making of its models not counted, and the model merged."""
    names = [f"task{place}" for place in range(len(vectors))]
    models: dict[str, nn.Module] = {_peer.PRETRAINED: _peer.Model(pretrained)}
    for name, vector in zip(names, vectors, strict=True):
        models[name] = _peer.Model({key: pretrained[key] + value for key, value in vector.items()})
    merged: list[nn.Module] = []
    seconds = _timed(lambda: merged.append(_peer.theirs(pair, models, names)))
    return seconds, merged[0]


def _vector(model: _peer.Model, pretrained: Mapping[str, Tensor]) -> task_vectors.Vector:
    return {key: value - pretrained[key] for key, value in model.state(pretrained).items()}


def _timed(work: Callable[[], object]) -> float:
    begun = CLOCK()
    work()
    return CLOCK() - begun
