"""One step of a line of merges in a process of its own, for bench_steps: what is asked comes as JSON, what it cost is printed as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from otmf import checkpoints, continual, settings
from otmf.checkpoints import low_rank
from stages.bench import measurement
from stages.context import current_line, encoder, shared_files


def main(asked: dict[str, Any]) -> dict[str, float | None]:
    """Merges a task into what the last step left in the folder, and leaves the same for the next one."""
    torch.set_num_threads(1)
    line, task, folder = current_line.read(Path(asked["line"])), asked["task"], Path(asked["folder"])
    options = settings.merge("default", asked["merge"])
    backbone, pretrained = encoder.open_backbone(line), shared_files.load_pretrained(line)
    tau = low_rank.load_vector(line.task_vector(task) / "vector.safetensors", pretrained)
    merged, state = None, {}
    if asked["step"] > 1:
        merged, state = checkpoints.load(folder / "merged.safetensors"), checkpoints.load(folder / "state.safetensors")
    head = shared_files.load_head(line.task_vector(task) / "head.safetensors")[1]
    processor = time.process_time()
    with measurement.measured(torch.device("cpu")) as cost:
        done = continual.advance(
            pretrained,
            merged,
            tau,
            count=asked["step"],
            state=state,
            options=options,
            encoder=continual.Encoder(backbone.features, backbone.prepare),
            unlabelled=lambda: encoder.unlabelled(line, task, options),
            head=head,
        )
    processor = time.process_time() - processor
    checkpoints.save(done.vector, folder / "merged.safetensors")
    checkpoints.save(done.state, folder / "state.safetensors")
    return {"processor s": processor, "clock s": cost.seconds, "peak MiB": cost.peak_mib, "above MiB": cost.added_mib}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
