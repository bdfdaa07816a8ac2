"""Task arithmetic: D_t = D_{t-1} + lambda tau_t. Order-invariant, no state."""

from __future__ import annotations

from otmf import task_vectors
from otmf.methods import interface


def step(arrival: interface.Arrival) -> interface.Outcome:
    """The sum of the task vectors so far, each times `options.coefficient`.

    Source: Ilharco et al. (2023), arXiv:2212.04089.
    """
    return interface.Outcome(
        task_vectors.combine([(1.0, interface.zero(arrival)), (arrival.options.coefficient, arrival.task_vector)])
    )
