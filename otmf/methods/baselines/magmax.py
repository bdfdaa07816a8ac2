"""MagMax: of all task vectors, entry by entry, the one of the greatest magnitude."""

from __future__ import annotations

import torch

from otmf import task_vectors
from otmf.methods import interface


def step(arrival: interface.Arrival) -> interface.Outcome:
    """lambda times the running entry of the greatest magnitude; of equal ones the later.

    State: `largest.<key>`, that entry before scaling.

    Source: Marczak et al. (2024), arXiv:2407.06322.
    """
    interface.require_state(arrival)
    largest = {}
    for key, tau in arrival.task_vector.items():
        before = arrival.state.get(f"largest.{key}", tau)
        largest[key] = torch.where(tau.abs() >= before.abs(), tau, before)
    return interface.Outcome(
        task_vectors.combine([(arrival.options.coefficient, largest)]),
        {f"largest.{key}": value for key, value in largest.items()},
    )
