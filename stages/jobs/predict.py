"""`otmf predict`: classes and probabilities of files, from the merged model and the head that serves a task."""

from __future__ import annotations

from pathlib import Path

from otmf import checkpoints
from stages.context import current_line, encoder, shared_files
from stages.context.run import say

TRACKED = False
LARGEST = 1 << 28


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"expected a file; received {path}, which is none; check the path")
    if path.stat().st_size > LARGEST:
        raise ValueError(
            f"expected a file of at most {LARGEST >> 20} MiB; received {path} with {path.stat().st_size >> 20}; make it smaller"
        )
    return path.read_bytes()


def main(line: current_line.Line, task: str, *given: str) -> None:
    if not line.order or task not in line.tasks_until(line.order[-1]):
        raise ValueError(f"expected a task merged into this line; received {task!r}; onboard it first")
    last, where = line.order[-1], encoder.device(line)
    backbone = encoder.open_backbone(line)
    found = backbone.decode([_content(Path(path)) for path in given], [Path(path).name for path in given])
    state = checkpoints.load(line.merged(last) / "model.safetensors")
    head, _, classes = shared_files.load_head(line.heads(last) / f"{task}.safetensors")
    features = encoder.teach(backbone, state, found, where=where)
    best = head.logits(features).softmax(dim=-1).max(dim=-1)
    for path, probability, position in zip(given, best.values, best.indices, strict=True):
        say(f"{Path(path).name}\t{classes[int(position)]}\t{float(probability):.3f}")
