"""Optimal transport between two clouds of features. The only door to POT.

Three quantities that are easily confused, for weights a, b, cost C_ij = |x_i - y_j|^2 and the entropic coupling P:

    transport cost       <P, C>
    regularised cost     <P, C> + epsilon KL(P | a b^T)
    Sinkhorn divergence  regularised(x, y) - (regularised(x, x) + regularised(y, y)) / 2

Their gradients are envelope gradients: the coupling, computed in the log domain in float64, is held constant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Only numpy arrays reach POT; importing the array libraries it could also serve takes seconds.
for _library in ("PYTORCH", "TENSORFLOW", "JAX", "CUPY"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{_library}", "1")

from ot.bregman import sinkhorn_stabilized  # noqa: E402
from ot.lp import emd  # noqa: E402

DIRECTIONS = 64
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Coupling:
    """A coupling and what is needed to doubt it.

    Attributes:
        plan: P, shape (n, m), sums to 1 up to the marginal error.
        iterations: rounds of scaling done.
        marginal_error: largest absolute error of a row or column sum.
        converged: whether the marginal error is within the tolerance asked for.
    """

    plan: Matrix
    iterations: int
    marginal_error: float
    converged: bool


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


def sinkhorn_coupling(cost: Matrix, *, epsilon: float, tolerance: float = 1e-6, max_iterations: int = 1000) -> Coupling:
    """Entropic coupling P of two samples with uniform weights.

    Minimises <P, C> + epsilon * sum(P * (log P - 1)) over P >= 0 with row sums 1/n and column sums 1/m, by scaling
    with the dual potentials absorbed in the log domain; they start at the c-transform of zero, so that no row or
    column underflows however small epsilon is.

    Args:
        cost: C, shape (n, m), finite. Its unit is called u below.
        epsilon: entropic regularisation, > 0, in u: scaling C and epsilon together leaves P unchanged.
        tolerance: stop when the error of the column sums is below this. No unit.
        max_iterations: rounds of scaling.

    Raises:
        ValueError: if the cost is not a finite matrix, or epsilon is not positive.

    Source: Cuturi (2013), arXiv:1306.0895; stabilisation of Schmitzer (2019), arXiv:1610.06519. Used in OTMF,
    arXiv:2511.19561.
    """
    if cost.ndim != 2 or not np.isfinite(cost).all():
        raise ValueError(
            f"expected a finite cost of shape (n, m); received shape {cost.shape}, finite: "
            f"{bool(np.isfinite(cost).all())}; look for NaN in the features"
        )
    if not epsilon > 0:
        raise ValueError(
            f"expected epsilon > 0, in the unit of the cost; received {epsilon}; for the unregularised problem "
            "use exact_coupling"
        )
    rows, columns = cost.shape
    a, b = np.full(rows, 1 / rows), np.full(columns, 1 / columns)
    row_potential = cost.min(axis=1)
    column_potential = (cost - row_potential[:, None]).min(axis=0)
    plan, log = sinkhorn_stabilized(
        a,
        b,
        cost,
        epsilon,
        stopThr=tolerance,
        numItermax=max_iterations,
        log=True,
        warn=False,
        warmstart=(row_potential, column_potential),
        print_period=10,
    )
    return _coupling(plan, a, b, iterations=int(log["n_iter"]) + 1, tolerance=tolerance)


def exact_coupling(cost: Matrix) -> Coupling:
    """The unregularised optimal coupling of two samples with uniform weights, by network simplex.

    Minimises <P, C> over P >= 0 with row sums 1/n and column sums 1/m.

    Args:
        cost: C, shape (n, m), finite.

    Source: Bonneel et al. (2011), through POT.
    """
    rows, columns = cost.shape
    a, b = np.full(rows, 1 / rows), np.full(columns, 1 / columns)
    return _coupling(emd(a, b, cost), a, b, iterations=0, tolerance=1e-9)


def unbalanced_coupling(
    cost: Matrix, *, epsilon: float, reach: float, tolerance: float = 1e-6, max_iterations: int = 1000
) -> Coupling:
    """Entropic coupling P of two samples with uniform weights a, b that need not move all of their mass.

    Minimises <P, C> + epsilon KL(P | a b^T) + reach KL(P 1 | a) + reach KL(P^T 1 | b) over P >= 0, by scaling in the log
    domain: what lies much further away than `reach` is left where it is.

    Args:
        cost: C, shape (n, m), finite.
        epsilon, reach: > 0, in the unit of the cost. A great reach gives `sinkhorn_coupling`.
        tolerance: stop when no potential changes by more than this times epsilon.
        max_iterations: rounds of scaling.

    Raises:
        ValueError: if epsilon or reach is not positive.

    Source: Chizat et al. (2018), arXiv:1607.05816, in the log domain as in Sejourne et al. (2019), arXiv:1910.12958.
    """
    if not (epsilon > 0 and reach > 0):
        raise ValueError(
            f"expected epsilon > 0 and reach > 0, in the unit of the cost; received {epsilon} and {reach}; set both"
        )
    rows, columns = cost.shape
    damping = reach / (reach + epsilon)
    row_potential, column_potential = np.zeros(rows), np.zeros(columns)
    iterations, change = 0, np.inf
    while iterations < max_iterations and change > tolerance:
        before = column_potential
        row_potential = -damping * epsilon * _log_mean_exp((column_potential[None, :] - cost) / epsilon, axis=1)
        column_potential = -damping * epsilon * _log_mean_exp((row_potential[:, None] - cost) / epsilon, axis=0)
        change = float(np.abs(column_potential - before).max()) / epsilon
        iterations += 1
    plan = np.exp((row_potential[:, None] + column_potential[None, :] - cost) / epsilon) / (rows * columns)
    return Coupling(plan, iterations, change, change <= tolerance)


def unbalanced_value(coupling: Coupling, cost: Matrix, *, epsilon: float, reach: float) -> float:
    """What `unbalanced_coupling` minimises, in the unit of the cost, for uniform weights."""
    rows, columns = cost.shape
    plan = coupling.plan
    product = np.full_like(plan, 1 / (rows * columns))
    moved = reach * (_divergence(plan.sum(1), 1 / rows) + _divergence(plan.sum(0), 1 / columns))
    return float(np.sum(plan * cost)) + epsilon * _divergence(plan, product) + moved


def regularised_value(coupling: Coupling, cost: Matrix, *, epsilon: float) -> float:
    """<P, C> + epsilon KL(P | a b^T), in the unit of the cost, for uniform a, b and a coupling of that cost."""
    rows, columns = cost.shape
    plan = coupling.plan
    positive = plan > 0
    entropy = float(np.sum(plan[positive] * np.log(plan[positive] * rows * columns)))
    return float(np.sum(plan * cost)) + epsilon * entropy


def transport_cost(
    x: Tensor, y: Tensor, *, epsilon: float, tolerance: float = 1e-4, max_iterations: int = 200
) -> Tensor:
    """<P, C> of the entropic coupling between two clouds; its gradient holds P constant.

    Args:
        x: shape (n, d), differentiable.
        y: shape (m, d).
        epsilon: entropic regularisation in units of the mean cost, > 0: one value serves every backbone.
        tolerance, max_iterations: of `sinkhorn_coupling`.

    Returns:
        A scalar in squared units of x.
    """
    cost = squared_distances(x, y)
    values = _values(cost)
    coupling = sinkhorn_coupling(
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
    return (_like(exact_coupling(_values(cost)).plan, cost) * cost).sum()


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

    As `sinkhorn_divergence`, with `unbalanced_coupling` and its value; `reach`, like epsilon, in units of the mean cost
    between x and y. (The term in the difference of the clouds' masses is zero: both are one.)

    Source: Sejourne et al. (2019), arXiv:1910.12958.
    """
    cost = squared_distances(x, y)
    values = _values(cost)
    options = {"epsilon": _absolute(epsilon, values), "reach": _absolute(reach, values)}

    def value(own: Tensor) -> Tensor:
        given = _values(own)
        found = unbalanced_coupling(given, **options, tolerance=tolerance, max_iterations=max_iterations)
        rest = unbalanced_value(found, given, **options) - float(np.sum(found.plan * given))
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
    coupling = sinkhorn_coupling(values, epsilon=epsilon, tolerance=tolerance, max_iterations=max_iterations)
    entropic = regularised_value(coupling, values, epsilon=epsilon) - float(np.sum(coupling.plan * values))
    return (_like(coupling.plan, cost) * cost).sum() + entropic


def _log_mean_exp(values: Matrix, *, axis: int) -> Matrix:
    greatest = values.max(axis=axis, keepdims=True)
    return np.squeeze(greatest, axis) + np.log(np.exp(values - greatest).mean(axis=axis))


def _divergence(given: Matrix, reference: Matrix | float) -> float:
    """The generalised Kullback-Leibler divergence of two measures that need not have one mass."""
    reference = np.broadcast_to(reference, given.shape)
    positive = given > 0
    entropy = np.sum(given[positive] * np.log(given[positive] / reference[positive]))
    return float(entropy - given.sum() + reference.sum())


def _absolute(epsilon: float, cost: Matrix) -> float:
    if not epsilon > 0:
        raise ValueError(f"expected epsilon > 0, in units of the mean cost; received {epsilon}; 0.05 is the default")
    mean = float(cost.mean())
    return epsilon * mean if mean > 0 else epsilon


def _coupling(plan: Matrix, a: Matrix, b: Matrix, *, iterations: int, tolerance: float) -> Coupling:
    error = max(float(np.abs(plan.sum(1) - a).max()), float(np.abs(plan.sum(0) - b).max()))
    return Coupling(plan, iterations, error, error <= tolerance)


def _values(cost: Tensor) -> Matrix:
    return cost.detach().double().cpu().numpy()


def _like(plan: Matrix, cost: Tensor) -> Tensor:
    return torch.from_numpy(plan).to(device=cost.device, dtype=cost.dtype)
