"""NUFILT: an arriving linear weight passes a filter that keeps it off the merged one's input directions, and a small learned way back."""

from __future__ import annotations

import torch
from torch import Tensor

from otmf.merging import linear_maps
from otmf.methods import interface
from otmf.settings import merge_methods


def step(arrival: interface.Arrival) -> interface.Outcome:
    """D + tau (P + B A): P projects onto the null space of D's leading right singular directions, B A is learned without data.

    Other tensors are averaged over the tasks so far.

    Source: Qiu et al. (2025), arXiv:2509.21413; where accounts of it differ, the target on the new task's directions is tau itself.
    """
    return _merged(arrival, learned=True)


def null_space(arrival: interface.Arrival) -> interface.Outcome:
    """D + tau P alone.

    Source: as `step`, without the learned part.
    """
    return _merged(arrival, learned=False)


def _merged(arrival: interface.Arrival, *, learned: bool) -> interface.Outcome:
    if arrival.merged_vector is None:
        return interface.Outcome({key: tau.clone() for key, tau in arrival.task_vector.items()})
    vector = {}
    for key, tau in arrival.task_vector.items():
        merged = arrival.merged_vector[key]
        if not linear_maps.is_linear(key, tau):
            vector[key] = merged + (tau - merged) / arrival.count
            continue
        D, new = linear_maps.oriented(key, merged), linear_maps.oriented(key, tau)
        old = directions(D, arrival.options.null_rank)
        filtered = outside(new, old)
        if learned:
            filtered = filtered + _way_back(key, D, new, old, filtered, arrival.options)
        vector[key] = linear_maps.oriented(key, D + filtered).contiguous()
    return interface.Outcome(vector)


def outside(weight: Tensor, directions: Tensor) -> Tensor:
    """A weight (out, in) without what it does to inputs in the span of orthonormal directions (in, r)."""
    return weight - (weight @ directions) @ directions.T


def directions(weight: Tensor, rank: int) -> Tensor:
    """The leading right singular vectors (in, r) of a weight (out, in), at most `rank`, none whose singular value is zero."""
    _, values, right = torch.linalg.svd(weight, full_matrices=False)
    return right[:rank][linear_maps.nonzero(values, weight)[:rank]].T


def _way_back(key: str, D: Tensor, tau: Tensor, old: Tensor, filtered: Tensor, options: merge_methods.Nufilt) -> Tensor:
    """tau B A, with B and A such that the sum is D on the old directions and tau on those of the new weight."""
    new = directions(tau, options.new_rank)
    rank = min(options.adapter_rank, tau.shape[1])
    drawn = torch.randn(rank, tau.shape[1], generator=interface.generator(options.seed, key), dtype=torch.float64)
    down = drawn.to(tau).requires_grad_()
    up = tau.new_zeros(tau.shape[1], rank).requires_grad_()
    optimiser = torch.optim.Adam([up, down], lr=options.learning_rate)
    for _ in range(options.steps):
        change = tau @ up @ down
        loss = ((filtered + change) @ old).square().sum() + ((D + filtered + change - tau) @ new).square().sum()
        up.grad, down.grad = torch.autograd.grad(loss, [up, down])
        optimiser.step()
    return (tau @ up @ down).detach()
