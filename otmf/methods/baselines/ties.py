"""TIES, continually: trim each vector to its largest entries, elect a sign, add what agrees with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.methods import interface
from otmf.settings import merge_methods


def step(arrival: interface.Arrival) -> interface.Outcome:
    """lambda m_t with m_t = TIES(m_{t-1}, tau_t) and m_1 = TIES(tau_1).

    State: `merged.<key>`, m_t.

    Source: Yadav et al. (2023), arXiv:2306.01708, with the sum of AdaMerging's code; as a chain this project's.
    """
    interface.require_state(arrival)
    before = {
        key: arrival.state.get(f"merged.{key}", torch.zeros_like(tau)) for key, tau in arrival.task_vector.items()
    }
    vectors = [before, arrival.task_vector] if arrival.state else [arrival.task_vector]
    merged = merge(vectors, density=arrival.options.density)
    return interface.Outcome(
        task_vectors.combine([(arrival.options.coefficient, merged)]),
        {f"merged.{key}": value for key, value in merged.items()},
    )


def published(arrival: interface.Arrival) -> interface.Outcome:
    """D_t = D_{t-1} + lambda TIES(D_{t-1}, tau_t), as in the tables of the continual-merging literature; D_1 = lambda tau_1.

    It adds to the merged vector what already contains it.

    Source: a baseline of Tang et al. (2025), arXiv:2501.09522.
    """
    coefficient = arrival.options.coefficient
    if arrival.merged_vector is None:
        return interface.Outcome(task_vectors.combine([(coefficient, arrival.task_vector)]))
    merged = merge([arrival.merged_vector, arrival.task_vector], density=arrival.options.density)
    return interface.Outcome(task_vectors.combine([(1.0, arrival.merged_vector), (coefficient, merged)]))


def joint(vectors: Sequence[Mapping[str, Tensor]], options: merge_methods.Ties) -> task_vectors.Vector:
    """All task vectors at once."""
    return task_vectors.combine([(options.coefficient, merge(vectors, density=options.density))])


def merge(vectors: Sequence[Mapping[str, Tensor]], *, density: float) -> task_vectors.Vector:
    """The sum, entry by entry, of those trimmed vectors whose sign is the elected one.

    Args:
        vectors: over the same keys.
        density: the fraction of all entries of a vector, over all its tensors, that trimming keeps.
    """
    bounds = [_bound(vector, density) for vector in vectors]
    trimmed = {
        key: [torch.where(one[key].abs() >= bound, one[key], 0) for one, bound in zip(vectors, bounds, strict=True)]
        for key in vectors[0]
    }
    signs = {key: torch.stack(values).sum(dim=0).sign() for key, values in trimmed.items()}
    majority = torch.stack([sign.sum() for sign in signs.values()]).sum().sign()
    merged = {}
    for key, values in trimmed.items():
        elected = torch.where(signs[key] == 0, majority, signs[key])
        merged[key] = torch.stack([torch.where(value.sign() == elected, value, 0) for value in values]).sum(dim=0)
    return merged


def _bound(vector: Mapping[str, Tensor], density: float) -> Tensor:
    """The magnitude from which on entries are kept: the (n - floor(density n))-th smallest of all n."""
    magnitudes = torch.cat([value.abs().flatten() for value in vector.values()])
    dropped = len(magnitudes) - int(density * len(magnitudes))
    if dropped == 0:
        return magnitudes.new_zeros(())
    return torch.kthvalue(magnitudes, dropped).values
