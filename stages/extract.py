"""Stage `extract`: the task vector of an expert with its frozen head, and the manifest that proves the task's splits apart."""

from __future__ import annotations

import shutil

from otmf import checkpoints
from otmf.checkpoints import extraction, low_rank
from stages.context import current_line, shared_files
from stages.context.run import Facts, say

HEAD = "head.safetensors"


def main(line: current_line.Line, name: str) -> Facts:
    pretrained, finetuned = (
        checkpoints.load_deferred(folder / "model.safetensors") for folder in (line.pretrained, line.finetuned(name))
    )
    _, split = line.load(name)
    path, factors = line.task_vector(name) / "vector.safetensors", line.finetuned(name) / "factors.safetensors"
    if factors.exists():
        found = extraction.keep(low_rank.read(factors), pretrained, path, name=f"the expert of {name}")
    else:
        found = extraction.extract(finetuned, pretrained, path, name=f"the expert of {name}")
    shutil.copyfile(line.finetuned(name) / HEAD, line.task_vector(name) / HEAD)
    length, relative = found.norm, found.norm / found.base_norm
    shared_files.write_json(
        line.manifest(name), {**split.manifest, "task_vector_norm": length, "task_vector_relative_norm": relative}
    )
    say(f"extract {name}: norm {length:.3f}, {100 * relative:.2f} % of the base's")
    return Facts(
        inputs=[line.finetuned(name), line.pretrained, line.raw(name)],
        outputs=[line.task_vector(name), line.manifest(name)],
        metrics={"task_vector_norm": length, "task_vector_relative_norm": relative},
        document={"split": split.manifest},
    )
