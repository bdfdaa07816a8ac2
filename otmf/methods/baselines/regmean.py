"""RegMean and LOT, as running sums: per linear weight the least squares merge on the inputs that each expert's layer saw.

m = (sum_i tau_i G_i) (sum_i G_i)^-1 with G_i the Gram matrix of layer inputs, tau_i (out, in). Both sums are kept, so memory does
not grow with the number of tasks, no old input is read again, and the order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.merging import layer_inputs, linear_maps
from otmf.methods import interface


def step(arrival: interface.Arrival) -> interface.Outcome:
    """RegMean: mean Gram matrices whose off-diagonal entries are multiplied by `shrinkage`; other tensors averaged.

    Source: Jin et al. (2023), arXiv:2212.09849.
    """

    def shrunk(gram: Tensor) -> Tensor:
        mean = gram / len(arrival.data.post.inputs)
        return arrival.options.shrinkage * mean + (1 - arrival.options.shrinkage) * torch.diag(mean.diagonal())

    return _merged(arrival, shrunk, coefficient=1.0)


def lot(arrival: interface.Arrival) -> interface.Outcome:
    """LOT: plain Gram matrices, the pseudo-inverse of their sum, and a coefficient; other tensors averaged.

    Source: arXiv:2505.23859 (2025); the weights of norms are averaged here.
    """
    return _merged(arrival, lambda gram: gram, coefficient=arrival.options.coefficient)


def _merged(arrival: interface.Arrival, weigh: Callable[[Tensor], Tensor], *, coefficient: float) -> interface.Outcome:
    interface.require_state(arrival)
    expert = task_vectors.add(arrival.pretrained, arrival.task_vector)
    grams = layer_inputs.grams(arrival.data.features, expert, arrival.data.post.inputs)
    vector: task_vectors.Vector = {}
    state: dict[str, Tensor] = {}
    for key, tau in arrival.task_vector.items():
        if key not in grams:
            state[f"sum.{key}"] = interface.added(arrival, f"sum.{key}", tau)
            vector[key] = state[f"sum.{key}"] * (coefficient / arrival.count)
            continue
        weight, gram = linear_maps.oriented(key, tau).double(), weigh(grams[key])
        state[f"gram.{key}"] = interface.added(arrival, f"gram.{key}", gram)
        state[f"product.{key}"] = interface.added(arrival, f"product.{key}", weight @ gram)
        merged = state[f"product.{key}"] @ torch.linalg.pinv(state[f"gram.{key}"], hermitian=True)
        vector[key] = linear_maps.oriented(key, coefficient * merged).to(tau.dtype).contiguous()
    return interface.Outcome(vector, state)
