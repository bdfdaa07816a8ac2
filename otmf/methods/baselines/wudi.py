"""WUDI in closed form, as running sums: per linear weight the least-interference merge of all task vectors so far.

m = (sum_i tau_i G_i) (sum_i G_i + r I)^-1 with G_i = tau_i^T tau_i / |tau_i|^2 for weights (out, in). Both sums are
kept, so memory does not grow with the number of tasks and the order does not matter. All other tensors are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.merging import linear_maps
from otmf.methods import interface
from otmf.settings import merge_methods

STEPS, LEARNING_RATE = 300, 1e-5  # of the published form


def step(arrival: interface.Arrival) -> interface.Outcome:
    """The merged vector from the running sums, after adding the new task vector to them.

    `options.ridge` is r in units of the mean diagonal entry of sum_i G_i. State: `gram.<key>` (in, in) and
    `product.<key>` (out, in) for each linear weight, `sum.<key>` for every other tensor.

    Raises:
        ValueError: if earlier steps left no running sums.

    Source: Cheng et al. (2025), arXiv:2503.08099; the closed form of its objective, with a ridge.
    """
    interface.require_state(arrival)
    vector, state = linear(arrival, ridge=arrival.options.ridge)
    for key, tau in arrival.task_vector.items():
        if key not in vector:
            state[f"sum.{key}"] = interface.added(arrival, f"sum.{key}", tau)
            vector[key] = state[f"sum.{key}"] / arrival.count
    return interface.Outcome({key: vector[key] for key in arrival.task_vector}, state)


def linear(arrival: interface.Arrival, *, ridge: float) -> tuple[task_vectors.Vector, dict[str, Tensor]]:
    """The merged weights of linear maps, and their running sums `gram.<key>` and `product.<key>` after adding the new vector."""
    vector: task_vectors.Vector = {}
    state: dict[str, Tensor] = {}
    for key, tau in arrival.task_vector.items():
        if not linear_maps.is_linear(key, tau):
            continue
        weight = linear_maps.oriented(key, tau).double()
        gram = weight.T @ weight / weight.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
        state[f"gram.{key}"] = interface.added(arrival, f"gram.{key}", gram)
        state[f"product.{key}"] = interface.added(arrival, f"product.{key}", weight @ gram)
        merged = solve(state[f"gram.{key}"], state[f"product.{key}"], ridge=ridge)
        vector[key] = linear_maps.oriented(key, merged).to(tau.dtype)
    return vector, state


def joint(vectors: Sequence[Mapping[str, Tensor]], options: merge_methods.Wudi) -> task_vectors.Vector:
    """All task vectors at once, as published: Adam steps from the sum of each linear weight on what the steps above solve at once.

    The loss is sum_i |(m - tau_i) tau_i^T|^2 / |tau_i|^2; 300 steps at 1e-5. No ridge.

    Source: Cheng et al. (2025), arXiv:2503.08099, and its code.
    """
    merged = {}
    for key, value in vectors[0].items():
        every = torch.stack([linear_maps.oriented(key, vector[key]) for vector in vectors])
        if not linear_maps.is_linear(key, value):
            merged[key] = linear_maps.oriented(key, every.mean(dim=0))
            continue
        found = every.sum(dim=0).requires_grad_()
        norms = every.square().sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(every.dtype).tiny)
        grams = every.mT @ every / norms
        optimiser = torch.optim.Adam([found], lr=LEARNING_RATE)
        for _ in range(STEPS):
            # half the gradient of |(m - tau) tau^T|^2 is (m - tau) tau^T tau
            found.grad = 2 * ((found.detach() - every) @ grams).sum(dim=0)
            optimiser.step()
        merged[key] = linear_maps.oriented(key, found.detach()).contiguous()
    return merged


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
