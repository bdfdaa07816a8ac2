"""AdaMerging, which the cost of a merge step is measured against: coefficients of all task vectors, trained by entropy on inputs of all tasks.

Source: Yang et al. (2024), arXiv:2310.02575. It keeps every task vector and passes a batch of every task at each step, so that both grow with
the number of tasks. The published code keeps the graphs of all tasks' batches until one backward pass; here the gradient at the merged
weights is summed over the tasks and taken to the coefficients by inner products: the same numbers in less memory, so that what grows with
the number of tasks is what must.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from otmf.objectives.losses import entropy

START, RATE = 0.3, 1e-3


def merge(
    pretrained: Mapping[str, Tensor],
    vectors: Sequence[Mapping[str, Tensor]],
    *,
    logits: Sequence[Callable[[Mapping[str, Tensor]], Tensor]],
    layer_wise: bool,
    steps: int,
    report: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """The state theta0 + sum_i lambda_i tau_i after some steps of Adam.

    Args:
        pretrained: theta0.
        vectors: one for each task.
        logits: for each task, from a state to the logits (n, classes) of a batch of its inputs.
        layer_wise: one coefficient for each task and tensor; else one for each task.
        steps: of the optimiser.
        report: called after each.
    """
    keys = list(vectors[0])
    coefficients = torch.full((len(vectors), len(keys) if layer_wise else 1), START, requires_grad=True)
    optimiser = torch.optim.Adam([coefficients], lr=RATE)

    def state() -> dict[str, Tensor]:
        found = dict(pretrained)
        for place, key in enumerate(keys):
            merged = pretrained[key].clone()
            for one, vector in zip(coefficients[:, place if layer_wise else 0].tolist(), vectors, strict=True):
                merged.add_(vector[key], alpha=one)
            found[key] = merged
        return found

    for _ in range(steps):
        merged = state()
        for key in keys:
            merged[key].requires_grad_()
        for one in logits:
            entropy(one(merged)).backward()
        met = {key: merged[key].grad for key in keys if merged[key].grad is not None}
        slopes = [
            [float(torch.sum(vector[key] * met[key])) if key in met else 0.0 for key in keys] for vector in vectors
        ]
        gradient = torch.tensor(slopes)
        coefficients.grad = gradient if layer_wise else gradient.sum(dim=1, keepdim=True)
        optimiser.step()
        report()
    return state()
