"""Optimal transport between two clouds of features, differentiable.

Three quantities that are easily confused, for weights a, b, cost C_ij = |x_i - y_j|^2 and the entropic coupling P:

    transport cost       <P, C>
    regularised cost     <P, C> + epsilon KL(P | a b^T)
    Sinkhorn divergence  regularised(x, y) - (regularised(x, x) + regularised(y, y)) / 2

Their gradients are envelope gradients: the coupling, computed in the log domain in float64 (`otmf.objectives.couplings`), is held constant.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from otmf.objectives import couplings
from otmf.objectives.couplings import Matrix

DIRECTIONS = 64


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """The cost C_ij = |x_i - y_j|^2.

    Args:
        x: shape (n, d).
        y: shape (m, d).

    Returns:
        C, shape (n, m), in squared units of x, differentiable, never below zero.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"expected two clouds of shape (n, d) and (m, d); received {tuple(x.shape)} and {tuple(y.shape)}; "
            "flatten each sample to one vector of features"
        )
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]
    return torch.addmm(squares, x, y.T, alpha=-2).clamp_min(0)


def transport_cost(
    x: Tensor, y: Tensor, *, epsilon: float, tolerance: float = 1e-4, max_iterations: int = 200
) -> Tensor:
    """<P, C> of the entropic coupling between two clouds; its gradient holds P constant.

    Args:
        x: shape (n, d), differentiable.
        y: shape (m, d).
        epsilon: entropic regularisation in units of the mean cost, > 0: one value serves every backbone.
        tolerance, max_iterations: of `couplings.sinkhorn_coupling`.

    Returns:
        A scalar in squared units of x.
    """
    cost = squared_distances(x, y)
    values = _values(cost)
    coupling = couplings.sinkhorn_coupling(
        values, epsilon=_absolute(epsilon, values), tolerance=tolerance, max_iterations=max_iterations
    )
    return (_like(coupling.plan, cost) * cost).sum()


def regularised_cost(
    x: Tensor, y: Tensor, *, epsilon: float, tolerance: float = 1e-4, max_iterations: int = 200
) -> Tensor:
    """<P, C> + epsilon KL(P | a b^T) between two clouds; arguments and gradient as in `transport_cost`."""
    cost = squared_distances(x, y)
    values = _values(cost)
    return _regularised(
        cost, values, epsilon=_absolute(epsilon, values), tolerance=tolerance, max_iterations=max_iterations
    )


def sinkhorn_divergence(
    x: Tensor, y: Tensor, *, epsilon: float, tolerance: float = 1e-4, max_iterations: int = 200
) -> Tensor:
    """The debiased Sinkhorn divergence between two clouds, zero if they are equal.

    regularised(x, y) - (regularised(x, x) + regularised(y, y)) / 2, all three with one epsilon: the given one times
    the mean of the cost between x and y. Arguments and gradient as in `transport_cost`.

    Source: Feydy et al. (2019), arXiv:1810.08278.
    """
    cost = squared_distances(x, y)
    values = _values(cost)
    options = {"epsilon": _absolute(epsilon, values), "tolerance": tolerance, "max_iterations": max_iterations}
    own, other = squared_distances(x, x), squared_distances(y, y)
    return (
        _regularised(cost, values, **options)
        - 0.5 * _regularised(own, _values(own), **options)
        - 0.5 * _regularised(other, _values(other), **options)
    )


def exact_cost(x: Tensor, y: Tensor) -> Tensor:
    """<P, C> of the unregularised optimal coupling between two clouds, zero if they are equal; its gradient holds P constant.

    Args:
        x: shape (n, d), differentiable.
        y: shape (m, d).

    Returns:
        A scalar in squared units of x: the squared 2-Wasserstein distance.
    """
    cost = squared_distances(x, y)
    return (_like(couplings.exact_coupling(_values(cost)).plan, cost) * cost).sum()


def sliced_cost(x: Tensor, y: Tensor, *, generator: torch.Generator, directions: int = DIRECTIONS) -> Tensor:
    """The sliced squared 2-Wasserstein distance of two clouds of one size, times d: that of a shift by v is about |v|^2.

    The mean over random directions of the transport cost of the projections, which sorting solves.

    Args:
        x: shape (n, d), differentiable.
        y: shape (n, d).
        generator: the directions are drawn from it, uniform on the sphere.
        directions: how many.

    Raises:
        ValueError: if the shapes differ.

    Source: Bonneel et al. (2015), Journal of Mathematical Imaging and Vision 51, 22-45.
    """
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(
            f"expected two clouds of one shape (n, d); received {tuple(x.shape)} and {tuple(y.shape)}; give both as many points"
        )
    drawn = torch.randn(x.shape[1], directions, generator=generator, dtype=torch.float64).to(x)
    drawn = drawn / drawn.norm(dim=0)
    apart = (x @ drawn).sort(dim=0).values - (y @ drawn).sort(dim=0).values
    return apart.square().mean() * x.shape[1]


def unbalanced_divergence(
    x: Tensor, y: Tensor, *, epsilon: float, reach: float, tolerance: float = 1e-4, max_iterations: int = 200
) -> Tensor:
    """The debiased unbalanced Sinkhorn divergence between two clouds, zero if they are equal.

    As `sinkhorn_divergence`, with `couplings.unbalanced_coupling` and its value; `reach`, like epsilon, in units of the mean cost
    between x and y. (The term in the difference of the clouds' masses is zero: both are one.)

    Source: Sejourne et al. (2019), arXiv:1910.12958.
    """
    cost = squared_distances(x, y)
    values = _values(cost)
    options = {"epsilon": _absolute(epsilon, values), "reach": _absolute(reach, values)}

    def value(own: Tensor) -> Tensor:
        given = _values(own)
        found = couplings.unbalanced_coupling(given, **options, tolerance=tolerance, max_iterations=max_iterations)
        rest = couplings.unbalanced_value(found, given, **options) - float(np.sum(found.plan * given))
        return (_like(found.plan, own) * own).sum() + rest

    return value(cost) - 0.5 * value(squared_distances(x, x)) - 0.5 * value(squared_distances(y, y))


def dissimilarity(x: Tensor, y: Tensor, *, epsilon: float) -> float:
    """The Sinkhorn divergence between two clouds over the variance of the second: no unit, one bound for every backbone.

    Args:
        x: shape (n, d).
        y: shape (m, d), not all equal.
        epsilon: as in `sinkhorn_divergence`.
    """
    variance = float((y - y.mean(0)).square().sum(1).mean())
    if variance == 0:
        return float("inf")
    return float(sinkhorn_divergence(x, y, epsilon=epsilon)) / variance


def _regularised(cost: Tensor, values: Matrix, *, epsilon: float, tolerance: float, max_iterations: int) -> Tensor:
    coupling = couplings.sinkhorn_coupling(values, epsilon=epsilon, tolerance=tolerance, max_iterations=max_iterations)
    entropic = couplings.regularised_value(coupling, values, epsilon=epsilon) - float(np.sum(coupling.plan * values))
    return (_like(coupling.plan, cost) * cost).sum() + entropic


def _absolute(epsilon: float, cost: Matrix) -> float:
    if not epsilon > 0:
        raise ValueError(f"expected epsilon > 0, in units of the mean cost; received {epsilon}; 0.05 is the default")
    mean = float(cost.mean())
    return epsilon * mean if mean > 0 else epsilon


def _values(cost: Tensor) -> Matrix:
    return cost.detach().double().cpu().numpy()


def _like(plan: Matrix, cost: Tensor) -> Tensor:
    return torch.from_numpy(plan).to(device=cost.device, dtype=cost.dtype)
