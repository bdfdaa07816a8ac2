"""`otmf predict`: classes and probabilities of pictures, from the merged model and the head that serves a task."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from otmf import checkpoints, images
from stages import _encoder, _files, _params
from stages._run import say

TRACKED = False


def main(line: _params.Line, task: str, *pictures: str) -> None:
    if not line.order or task not in line.tasks_until(line.order[-1]):
        raise ValueError(f"expected a task merged into this line; received {task!r}; onboard it first")
    last, where = line.order[-1], _encoder.device(line)
    backbone = _encoder.open_backbone(line)
    pixels = np.stack([images.read_picture(Path(path), backbone.image_size) for path in pictures])
    state = checkpoints.load(line.merged(last) / "model.safetensors")
    head, _, classes = _files.load_head(line.heads(last) / f"{task}.safetensors")
    found = _encoder.teach(backbone, state, pixels, where=where)
    best = head.logits(found).softmax(dim=-1).max(dim=-1)
    for path, probability, position in zip(pictures, best.values, best.indices, strict=True):
        say(f"{Path(path).name}\t{classes[int(position)]}\t{float(probability):.3f}")
