"""OPCM: of each arriving linear weight only what is orthogonal to the merged one's leading directions, at a norm that is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.merging import linear_maps
from otmf.methods import interface


def step(arrival: interface.Arrival) -> interface.Outcome:
    """(lambda_{t-1} D + projected tau_t) / lambda_t, with lambda_t such that the norm is the mean norm of the task vectors so far.

    State: `scale`, lambda_t, and `norms`, the sum of the norms so far; both shape ().

    Source: Tang et al. (2025), arXiv:2501.09522.
    """
    interface.require_state(arrival)
    norms = arrival.state.get("norms", torch.zeros((), dtype=torch.float64)) + task_vectors.norm(arrival.task_vector)
    scale = arrival.state.get("scale", torch.ones((), dtype=torch.float64))
    if arrival.merged_vector is None:
        return interface.Outcome(
            {key: tau.clone() for key, tau in arrival.task_vector.items()}, {"scale": scale, "norms": norms}
        )
    total = {}
    for key, tau in arrival.task_vector.items():
        merged = arrival.merged_vector[key]
        added = project(merged, tau, arrival.options.threshold) if linear_maps.is_linear(key, tau) else tau
        total[key] = merged * float(scale) + added
    mean, norm = float(norms) / arrival.count, task_vectors.norm(total)
    if mean > 0 and norm > 0:
        scale = torch.tensor(norm / mean, dtype=torch.float64)
    vector = {key: value / float(scale) for key, value in total.items()}
    return interface.Outcome(vector, {"scale": scale, "norms": norms})


def project(merged: Tensor, tau: Tensor, threshold: float) -> Tensor:
    """tau without the block that the merged weight's leading singular directions span, and without the diagonal in its bases.

    With D = U diag(s) V^T (thin) and C = U^T tau V: tau - U (K * C) V^T, where K is 1 on the first r rows and columns and on the
    diagonal, r being the first index at which the singular values up to it make up more than `threshold` of their sum. Directions
    whose singular value is zero have no place in a basis of their own, so the diagonal ends before them.

    Args:
        merged, tau: shape (out, in), or (in, out).
        threshold: in [0, 1).
    """
    left, values, right = torch.linalg.svd(merged, full_matrices=False)
    if values[0] == 0:
        return tau
    share = values.cumsum(dim=0) / values.sum()
    rank = int((share > threshold).nonzero()[0])
    removed = torch.diag(linear_maps.nonzero(values, merged).to(tau.dtype))
    removed[:rank, :rank] = 1
    within = left.T @ tau @ right.T
    return tau - left @ (removed * within) @ right
