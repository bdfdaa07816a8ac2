"""Stage `extract`: the task vector of an expert, and the manifest that proves the task's splits apart."""

from __future__ import annotations

from otmf import checkpoints, task_vectors
from stages import _files, _params
from stages._run import Facts, say


def main(line: _params.Line, name: str) -> Facts:
    pretrained = _files.load_pretrained(line)
    finetuned = checkpoints.load(line.finetuned(name) / "model.safetensors")
    checkpoints.check_finetuned(finetuned, pretrained, name=f"the expert of {name}")
    vector = task_vectors.subtract(finetuned, pretrained)
    _, split = line.load(name)
    length, relative = (
        task_vectors.norm(vector),
        task_vectors.norm(vector) / task_vectors.norm(task_vectors.floats(pretrained)),
    )
    checkpoints.save(vector, line.task_vector(name) / "vector.safetensors")
    _files.write_json(
        line.manifest(name), {**split.manifest, "task_vector_norm": length, "task_vector_relative_norm": relative}
    )
    say(f"extract {name}: norm {length:.3f}, {100 * relative:.2f} % of the base's")
    return Facts(
        inputs=[line.finetuned(name), line.pretrained, line.raw(name)],
        outputs=[line.task_vector(name), line.manifest(name)],
        metrics={"task_vector_norm": length, "task_vector_relative_norm": relative},
        document={"split": split.manifest},
    )
