"""Iso-C: the sum of all task vectors with the singular values of each matrix made equal. Order-invariant."""

from __future__ import annotations

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.merging import linear_maps
from otmf.methods import interface


def step(arrival: interface.Arrival) -> interface.Outcome:
    """lambda times the sum of the task vectors, isotropic in each matrix; other tensors lambda times their mean.

    State: `sum.<key>`, the sums.

    Source: Marczak et al. (2025), arXiv:2502.04959; continually the same by keeping the sums.
    """
    interface.require_state(arrival)
    sums = {
        key: arrival.state.get(f"sum.{key}", torch.zeros_like(tau)) + tau for key, tau in arrival.task_vector.items()
    }
    merged = {key: isotropic(total) if total.ndim == 2 else total / arrival.count for key, total in sums.items()}
    return interface.Outcome(
        task_vectors.combine([(arrival.options.coefficient, merged)]),
        {f"sum.{key}": total for key, total in sums.items()},
    )


def isotropic(total: Tensor) -> Tensor:
    """The matrix with its singular values replaced by their mean; directions whose singular value is zero stay out."""
    left, values, right = torch.linalg.svd(total, full_matrices=False)
    return values.mean() * (left * linear_maps.nonzero(values, total)) @ right
