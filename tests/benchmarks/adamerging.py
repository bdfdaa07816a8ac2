"""AdaMerging, which the cost of a merge step is measured against: coefficients of all task vectors, trained by entropy on inputs of all tasks.

Source: Yang et al. (2024), arXiv:2310.02575. It keeps every task vector and passes a batch of every task at each step, so that both grow with
the number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

START, RATE = 0.3, 1e-3


def merge(
    pretrained: Mapping[str, Tensor],
    vectors: Sequence[Mapping[str, Tensor]],
    *,
    logits: Sequence[Callable[[Mapping[str, Tensor]], Tensor]],
    layer_wise: bool,
    steps: int,
) -> dict[str, Tensor]:
    """The state theta0 + sum_i lambda_i tau_i after some steps of Adam.

    Args:
        pretrained: theta0.
        vectors: one for each task.
        logits: for each task, from a state to the logits (n, classes) of a batch of its inputs.
        layer_wise: one coefficient for each task and tensor; else one for each task.
        steps: of the optimiser.
    """
    keys = list(vectors[0])
    shape = (len(vectors), len(keys)) if layer_wise else (len(vectors), 1)
    coefficients = torch.full(shape, START, requires_grad=True)
    optimiser = torch.optim.Adam([coefficients], lr=RATE)

    def state() -> dict[str, Tensor]:
        found = dict(pretrained)
        for place, key in enumerate(keys):
            own = coefficients[:, place if layer_wise else 0]
            found[key] = pretrained[key] + sum(one * vector[key] for one, vector in zip(own, vectors, strict=True))
        return found

    for _ in range(steps):
        optimiser.zero_grad()
        merged = state()
        sum(_entropy(one(merged)) for one in logits).backward()
        optimiser.step()
    with torch.no_grad():
        return {key: value.detach() for key, value in state().items()}


def _entropy(logits: Tensor) -> Tensor:
    return -(functional.softmax(logits, dim=-1) * functional.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
