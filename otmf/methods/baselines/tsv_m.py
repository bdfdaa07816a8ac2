"""TSV-M: the leading singular triplets of each weight side by side, made orthogonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.methods import interface
from otmf.settings import merge_methods


def step(arrival: interface.Arrival) -> interface.Outcome:
    """TSV-M of the merged vector, which stands for t - 1 tasks and has as many shares of the rank, and of the new one.

    Other tensors are averaged over the tasks so far. State: `merged.<key>`, before the coefficient.

    Source: Gargiulo et al. (2025), arXiv:2412.00081; as a chain this project's.
    """
    interface.require_state(arrival)
    merged = {}
    for key, tau in arrival.task_vector.items():
        before = arrival.state.get(f"merged.{key}")
        if before is None:
            merged[key] = tau.clone()
        elif tau.ndim != 2:
            merged[key] = before + (tau - before) / arrival.count
        else:
            merged[key] = merge([before, tau], shares=[arrival.count - 1, 1])
    return interface.Outcome(
        task_vectors.combine([(arrival.options.coefficient, merged)]),
        {f"merged.{key}": value for key, value in merged.items()},
    )


def joint(vectors: Sequence[Mapping[str, Tensor]], options: merge_methods.TsvM) -> task_vectors.Vector:
    """All task vectors at once."""
    count = len(vectors)
    merged = {
        key: merge([vector[key] for vector in vectors], shares=[1] * count)
        if value.ndim == 2
        else torch.stack([vector[key] for vector in vectors]).mean(dim=0)
        for key, value in vectors[0].items()
    }
    return task_vectors.combine([(options.coefficient, merged)])


def merge(weights: Sequence[Tensor], *, shares: Sequence[int]) -> Tensor:
    """U_perp diag(s) V_perp^T of the triplets kept: of each weight floor(n share / sum of shares), n the smaller side.

    Args:
        weights: each of shape (out, in).
        shares: of each weight.
    """
    size = min(weights[0].shape)
    kept = [size * share // sum(shares) for share in shares]
    found = [torch.linalg.svd(weight, full_matrices=False) for weight in weights]
    left = torch.cat([part[0][:, :rank] for part, rank in zip(found, kept, strict=True)], dim=1)
    values = torch.cat([part[1][:rank] for part, rank in zip(found, kept, strict=True)])
    right = torch.cat([part[2][:rank] for part, rank in zip(found, kept, strict=True)])
    there = values > 0
    left, values, right = left[:, there], values[there], right[there]
    if not len(values):
        return torch.zeros_like(weights[0])
    return (_orthogonal(left) * values) @ _orthogonal(right.T).T


def _orthogonal(columns: Tensor) -> Tensor:
    """The matrix with orthonormal columns that is nearest: its polar factor."""
    left, _, right = torch.linalg.svd(columns, full_matrices=False)
    return left @ right
