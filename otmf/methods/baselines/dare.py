"""DARE: entries of each task vector dropped at random and the rest scaled up, then task arithmetic. Order-invariant, no state."""

from __future__ import annotations

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.methods import interface


def step(arrival: interface.Arrival) -> interface.Outcome:
    """D_{t-1} + lambda tau_t with each entry of tau_t kept with probability 1 - p and divided by it.

    What is kept is drawn from the seed, the tensor's name and its values, so a task loses the same entries whenever it arrives.

    Source: Yu et al. (2024), arXiv:2311.03099.
    """
    options = arrival.options
    kept = {key: _dropped(key, value, options.drop, options.seed) for key, value in arrival.task_vector.items()}
    return interface.Outcome(task_vectors.combine([(1.0, interface.zero(arrival)), (options.coefficient, kept)]))


def _dropped(key: str, value: Tensor, drop: float, seed: int) -> Tensor:
    generator = interface.generator(seed, key, value.detach().cpu().float().contiguous().numpy().tobytes())
    kept = torch.rand(value.shape, generator=generator) >= drop
    return torch.where(kept.to(value.device), value / (1 - drop), 0)
