"""The files stages share: theta0, heads, JSON. Needs torch, but neither open_clip nor POT."""

from __future__ import annotations

import json
from pathlib import Path

from otmf import checkpoints, heads, task_vectors
from stages.context import current_line


def load_pretrained(line: current_line.Line) -> task_vectors.State:
    """theta0, on the CPU."""
    return checkpoints.load(line.pretrained / "model.safetensors")


def save_head(path: Path, served: heads.Head, frozen: heads.Head, *, classes: tuple[str, ...]) -> None:
    """A head as served and as it was before any tuning, with its class names."""
    checkpoints.save(
        {"weight": served.weight, "bias": served.bias, "frozen_weight": frozen.weight, "frozen_bias": frozen.bias},
        path,
        note=json.dumps(list(classes), ensure_ascii=False),
    )


def load_head(path: Path) -> tuple[heads.Head, heads.Head, tuple[str, ...]]:
    """The head as served, the head before tuning, and the class names."""
    tensors = checkpoints.load(path)
    return (
        heads.Head(tensors["weight"], tensors["bias"]),
        heads.Head(tensors["frozen_weight"], tensors["frozen_bias"]),
        tuple(json.loads(checkpoints.metadata(path)["note"])),
    )


def write_json(path: Path, content: object) -> None:
    """JSON written whole or not at all, the same bytes for the same content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
