"""AdaMerging, continually: how much of the merged vector and of the new one, chosen so that predictions are sure.

Coefficients of two vectors stand for those of all tasks, so neither memory nor time grows with their number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.methods import interface, remembered_heads
from otmf.objectives import losses


def task_wise(arrival: interface.Arrival) -> interface.Outcome:
    """a D + b tau with one coefficient each. See `layer_wise`."""
    return _merged(arrival, layer_wise=False)


def layer_wise(arrival: interface.Arrival) -> interface.Outcome:
    """a_k D_k + b_k tau_k with two coefficients for each tensor k, from a = 1 and b = `coefficient`.

    Adam steps on the mean entropy of predictions: of the new task's unlabelled inputs under its head, and, where there is a memory, of
    remembered inputs under the heads of their tasks. State: `head.<step>.weight` and `.bias`, the heads that memory needs.

    Source: Yang et al. (2024), arXiv:2310.02575; continually as a baseline of arXiv:2505.11883, which has no memory.
    """
    return _merged(arrival, layer_wise=True)


def _merged(arrival: interface.Arrival, *, layer_wise: bool) -> interface.Outcome:
    state = remembered_heads.kept(arrival)
    if arrival.merged_vector is None:
        return interface.Outcome({key: value.clone() for key, value in arrival.task_vector.items()}, state)
    vectors, options = (arrival.merged_vector, arrival.task_vector), arrival.options
    keys = list(arrival.task_vector)
    start = torch.tensor([[1.0], [options.coefficient]]).repeat(1, len(keys) if layer_wise else 1)
    coefficients = start.requires_grad_()
    optimiser = torch.optim.Adam([coefficients], lr=options.learning_rate)
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(options.steps):
        merged = _combined(vectors, coefficients, keys)
        full = {key: (arrival.pretrained[key] + value).requires_grad_() for key, value in merged.items()}
        _loss(arrival, {**arrival.pretrained, **full}, generator).backward()
        slopes = torch.tensor([
            [0.0 if full[key].grad is None else float((vector[key] * full[key].grad).sum()) for key in keys] for vector in vectors
        ])  # fmt: skip
        coefficients.grad = slopes if layer_wise else slopes.sum(dim=1, keepdim=True)
        optimiser.step()
    return interface.Outcome(_combined(vectors, coefficients, keys), state)


def _combined(vectors: tuple, coefficients: Tensor, keys: list[str]) -> task_vectors.Vector:
    found = coefficients.detach().expand(2, len(keys))
    return {
        key: found[0, place] * vectors[0][key] + found[1, place] * vectors[1][key] for place, key in enumerate(keys)
    }


def _loss(arrival: interface.Arrival, full: task_vectors.State, generator: torch.Generator) -> Tensor:
    data, loss = arrival.data, []
    pre, post = remembered_heads.predictors(arrival)
    for side, predictors in ((data.post, post), (data.pre, pre)):
        if side is not None:
            chosen = torch.randperm(len(side.inputs), generator=generator)[: arrival.options.batch_size]
            features = data.features(full, side.inputs[chosen])
            loss.append(predictors[chosen].mean(losses.entropy, features, features))
    return torch.stack(loss).sum()
