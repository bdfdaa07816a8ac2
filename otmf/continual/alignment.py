"""Heads after a merge, aligned without labels: the new task's on its unlabelled inputs, older ones on what a memory holds of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from otmf import heads
from otmf.continual import memory

Teach = Callable[[np.ndarray], Tensor]


def after_step(
    served: Mapping[str, heads.Head],
    frozen: Mapping[str, heads.Head],
    tasks: Sequence[str],
    *,
    teach: Teach,
    inputs: np.ndarray,
    targets: Tensor,
    kept: memory.Memory | None,
    ridge: float,
    ridge_of_old: float,
) -> tuple[dict[str, heads.Head], dict[str, int]]:
    """The heads of all tasks so far, and on how many inputs each was aligned; a task without any keeps its head.

    Each head is moved so that the merged model gives the logits that the task's expert gave, from where it stood.

    Args:
        served: task -> head that served before this step; the frozen one of the new task.
        frozen: task -> head frozen before fine-tuning, under which experts' logits are.
        tasks: in the order of merging, so that step i brought the i-th; the last is the new one.
        teach: features (n, d) on the CPU that the merged model gives to inputs as the backbone reads them.
        inputs, targets: unlabelled ones of the new task, and its expert's features (n, d) of them.
        kept: the memory that the merge left, with the features experts gave on arrival; or None.
        ridge, ridge_of_old: as in `heads.aligned`, of the new task's head and of the others.
    """
    found, used = dict(served), {}
    for step, task in enumerate(tasks, start=1):
        if step == len(tasks):
            read, taught, held = inputs, targets, ridge
        elif kept is not None and (kept.steps == step).any():
            chosen = kept.steps == step
            read, taught, held = kept.inputs[chosen].cpu().numpy(), kept.targets[chosen], ridge_of_old
        else:
            continue
        if len(read):
            wanted = frozen[task].logits(taught.cpu())
            found[task], used[task] = heads.aligned(served[task], teach(read), wanted, ridge=held), len(read)
    return found, used
