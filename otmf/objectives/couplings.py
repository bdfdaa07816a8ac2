"""Couplings of two samples by the Sinkhorn loop and its exact and sliced relatives: numpy in float64. The only door to POT."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Only numpy arrays reach POT; importing the array libraries it could also serve takes seconds.
for _library in ("PYTORCH", "TENSORFLOW", "JAX", "CUPY"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{_library}", "1")

from ot.bregman import sinkhorn_stabilized  # noqa: E402
from ot.lp import emd  # noqa: E402

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


def _log_mean_exp(values: Matrix, *, axis: int) -> Matrix:
    greatest = values.max(axis=axis, keepdims=True)
    return np.squeeze(greatest, axis) + np.log(np.exp(values - greatest).mean(axis=axis))


def _divergence(given: Matrix, reference: Matrix | float) -> float:
    """The generalised Kullback-Leibler divergence of two measures that need not have one mass."""
    reference = np.broadcast_to(reference, given.shape)
    positive = given > 0
    entropy = np.sum(given[positive] * np.log(given[positive] / reference[positive]))
    return float(entropy - given.sum() + reference.sum())


def _coupling(plan: Matrix, a: Matrix, b: Matrix, *, iterations: int, tolerance: float) -> Coupling:
    error = max(float(np.abs(plan.sum(1) - a).max()), float(np.abs(plan.sum(0) - b).max()))
    return Coupling(plan, iterations, error, error <= tolerance)
