"""`otmf import`: a fine-tuned encoder in any form that people have it in, as one safetensors file under this line's names."""

from __future__ import annotations

import json
from pathlib import Path

from otmf import checkpoints, formats, task_vectors
from stages.context import current_line, encoder, shared_files
from stages.context.run import say

TRACKED = False


def main(line: current_line.Line, source: str, target: str, patterns: str) -> None:
    """Reads `source`, checks it against this line's base, writes `target` (empty: nothing); `patterns` is JSON with `missing` and `ignored`."""
    base = shared_files.load_pretrained(line)
    backbone = encoder.open_backbone(line)
    found = formats.read(Path(source), base=base, canonical=backbone.canonical, **json.loads(patterns))
    backbone.check_beside(Path(source))
    checkpoints.check_finetuned(found.state, base, name=Path(source).name)
    if target:
        checkpoints.save(found.state, Path(target))
    moved = task_vectors.norm(task_vectors.subtract(found.state, base)) / task_vectors.norm(task_vectors.floats(base))
    say(f"read as {found.form}: {len(found.state)} tensors, {100 * moved:.2f} % of the base's norm away from it")
    if found.factors:
        ranks = sorted({factors.down.shape[0] for factors in found.factors.values()})
        say(f"factors of rank {', '.join(map(str, ranks))} for {len(found.factors)} weights, expanded")
    for name in found.left_out:
        say(f"left out: {ascii(name)[1:-1]}")
