"""WUDI in closed form, as running sums: per linear weight the least-interference merge of all task vectors so far.

m = (sum_i tau_i G_i) (sum_i G_i + r I)^-1 with G_i = tau_i^T tau_i / |tau_i|^2 for weights (out, in). Both sums are
kept, so memory does not grow with the number of tasks and the order does not matter. All other tensors are averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.methods import _linear, _table


def step(arrival: _table.Arrival) -> _table.Outcome:
    """The merged vector from the running sums, after adding the new task vector to them.

    `options.ridge` is r in units of the mean diagonal entry of sum_i G_i. State: `gram.<key>` (in, in) and
    `product.<key>` (out, in) for each linear weight, `sum.<key>` for every other tensor.

    Raises:
        ValueError: if earlier steps left no running sums.

    Source: Cheng et al. (2025), arXiv:2503.08099; the closed form of its objective, with a ridge.
    """
    _table.require_state(arrival)
    vector, state = linear(arrival, ridge=arrival.options.ridge)
    for key, tau in arrival.task_vector.items():
        if key not in vector:
            state[f"sum.{key}"] = _table.added(arrival, f"sum.{key}", tau)
            vector[key] = state[f"sum.{key}"] / arrival.count
    return _table.Outcome({key: vector[key] for key in arrival.task_vector}, state)


def linear(arrival: _table.Arrival, *, ridge: float) -> tuple[task_vectors.Vector, dict[str, Tensor]]:
    """The merged weights of linear maps, and their running sums `gram.<key>` and `product.<key>` after adding the new vector."""
    vector: task_vectors.Vector = {}
    state: dict[str, Tensor] = {}
    for key, tau in arrival.task_vector.items():
        if not _linear.is_linear(key, tau):
            continue
        weight = _linear.oriented(key, tau).double()
        gram = weight.T @ weight / weight.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
        state[f"gram.{key}"] = _table.added(arrival, f"gram.{key}", gram)
        state[f"product.{key}"] = _table.added(arrival, f"product.{key}", weight @ gram)
        merged = solve(state[f"gram.{key}"], state[f"product.{key}"], ridge=ridge)
        vector[key] = _linear.oriented(key, merged).to(tau.dtype)
    return vector, state


def solve(gram: Tensor, product: Tensor, *, ridge: float) -> Tensor:
    """product @ (gram + ridge * mean(diag(gram)) I)^-1; zero where the Gram matrix is zero.

    Args:
        gram: shape (in, in), symmetric, positive semi-definite.
        product: shape (out, in).
        ridge: > 0, in units of the mean diagonal entry.
    """
    mean = gram.diagonal().mean()
    if mean == 0:
        return torch.zeros_like(product)
    damped = gram + ridge * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(damped, product.T).T
