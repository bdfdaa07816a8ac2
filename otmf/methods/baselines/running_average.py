"""The running average of all fine-tuned models: D_t = ((t-1) D_{t-1} + tau_t) / t. Order-invariant, no state but t."""

from __future__ import annotations

from otmf import task_vectors
from otmf.methods import interface


def step(arrival: interface.Arrival) -> interface.Outcome:
    """The mean of the task vectors so far.

    Source: Wortsman et al. (2022), arXiv:2203.05482, as a running mean.
    """
    share = 1 / arrival.count
    return interface.Outcome(task_vectors.combine([(1 - share, interface.zero(arrival)), (share, arrival.task_vector)]))
