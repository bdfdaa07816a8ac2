"""DOP: each linear weight pulled to the merged one and to the new one along the directions that matter to each, balanced by MGDA."""

from __future__ import annotations

import torch
from torch import Tensor

from otmf.merging import linear_maps
from otmf.methods import interface
from otmf.settings import merge_methods

_TINY = 1e-8


def step(arrival: interface.Arrival) -> interface.Outcome:
    """From the average of D and tau_t, Adam steps on a L_old + (1 - a) L_new, where for x = old, new

    L_x = |diag(s) U^T (W - W_x)|^2 + |(W - W_x) V diag(s)|^2, W_x = U diag(s) V^T cut at `spectrum` of the sum of s,

    and a is the running min-norm weight of both gradients, each over its loss. Other tensors are the average of the two.

    Source: Yang et al. (2025), "Continual Model Merging without Data", NeurIPS.
    """
    if arrival.merged_vector is None:
        return interface.Outcome({key: tau.clone() for key, tau in arrival.task_vector.items()})
    vector = {}
    for key, tau in arrival.task_vector.items():
        merged = arrival.merged_vector[key]
        vector[key] = _pulled(merged, tau, arrival.options) if linear_maps.is_linear(key, tau) else (merged + tau) / 2
    return interface.Outcome(vector)


def _pulled(merged: Tensor, tau: Tensor, options: merge_methods.Dop) -> Tensor:
    sides = [(one, *_curvatures(one, options.spectrum)) for one in (merged, tau)]
    weight = ((merged + tau) / 2).requires_grad_()
    optimiser, balance = torch.optim.Adam([weight], lr=options.learning_rate), options.balance
    for _ in range(options.steps):
        gradients, losses = zip(*(_pull(weight.detach(), *side) for side in sides), strict=True)
        scaled = [gradient / loss.clamp_min(_TINY) for gradient, loss in zip(gradients, losses, strict=True)]
        balance = options.balance_decay * balance + (1 - options.balance_decay) * _min_norm(*scaled)
        weight.grad = balance * gradients[0] + (1 - balance) * gradients[1]
        optimiser.step()
    return weight.detach()


def _curvatures(weight: Tensor, spectrum: float) -> tuple[Tensor, Tensor]:
    """U diag(s^2) U^T and V diag(s^2) V^T of what is left of a weight when its smallest singular values are cut."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    if values[0] == 0:
        return weight.new_zeros(len(weight), len(weight)), weight.new_zeros(weight.shape[1], weight.shape[1])
    share = values.cumsum(dim=0) / values.sum()
    kept = min(int((share < spectrum).sum()) + 1, len(values))
    squares = values[:kept].square()
    return (left[:, :kept] * squares) @ left[:, :kept].T, (right[:kept].T * squares) @ right[:kept]


def _pull(weight: Tensor, target: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and value of L_x at a weight."""
    away = weight - target
    pulled = rows @ away + away @ columns
    return 2 * pulled, (away * pulled).sum()


def _min_norm(old: Tensor, new: Tensor) -> float:
    """The weight of `old` in the shortest convex combination of two gradients."""
    apart = (old - new).square().sum()
    return 0.5 if apart == 0 else float(((new * (new - old)).sum() / apart).clamp(0, 1))
