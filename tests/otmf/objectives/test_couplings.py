"""Couplings: against other solvers, properties for any input, messages."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ot.unbalanced import sinkhorn_unbalanced

from otmf.objectives import couplings


def apart(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """The squared distances of two clouds."""
    x, y = (
        torch.randn(count, 5, generator=torch.Generator().manual_seed(seed + place), dtype=torch.float64)
        for place, count in enumerate((rows, columns))
    )
    return torch.cdist(x, y).square().numpy()


def test_coupling_equals_the_plain_log_domain_solver() -> None:
    cost = apart(16, 12)
    for epsilon in (0.02, 0.1, 1.0):
        scale = epsilon * cost.mean()
        found = couplings.sinkhorn_coupling(cost, epsilon=scale, tolerance=1e-12, max_iterations=20_000)
        plain = ot.bregman.sinkhorn_log(
            np.full(16, 1 / 16), np.full(12, 1 / 12), cost, scale, stopThr=1e-12, numItermax=20_000, warn=False
        )
        np.testing.assert_allclose(found.plan, plain, atol=1e-9)


def test_constant_added_to_the_cost_changes_nothing_even_where_the_kernel_underflows() -> None:
    """exp(-10000) is zero in float64: without the log domain every row of the kernel would vanish."""
    cost = apart(16, 16)
    found = couplings.sinkhorn_coupling(cost + 1e4, epsilon=1.0, tolerance=1e-10, max_iterations=5000)
    plain = couplings.sinkhorn_coupling(cost, epsilon=1.0, tolerance=1e-10, max_iterations=5000)
    assert found.converged
    np.testing.assert_allclose(found.plan, plain.plan, atol=1e-9)


def test_coupling_reports_whether_it_converged() -> None:
    cost = apart(16, 16)
    short = couplings.sinkhorn_coupling(cost, epsilon=0.1 * cost.mean(), tolerance=1e-14, max_iterations=2)
    long = couplings.sinkhorn_coupling(cost, epsilon=0.1 * cost.mean(), tolerance=1e-9, max_iterations=5000)
    assert not short.converged
    assert long.converged
    assert long.iterations > short.iterations
    assert long.marginal_error < short.marginal_error


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.floats(0.02, 2.0), st.integers(0, 1000))
def test_cost_and_epsilon_scale_together(rows: int, columns: int, epsilon: float, seed: int) -> None:
    cost = apart(rows, columns, seed)
    one = couplings.sinkhorn_coupling(cost, epsilon=epsilon * cost.mean())
    other = couplings.sinkhorn_coupling(7 * cost, epsilon=7 * epsilon * cost.mean())
    np.testing.assert_allclose(one.plan, other.plan, atol=1e-9)
    assert one.plan.sum() == pytest.approx(1.0)


def test_exact_coupling_of_equal_sizes_is_a_permutation() -> None:
    cost = apart(9, 9)
    plan = 9 * couplings.exact_coupling(cost).plan
    assert set(np.unique(plan.round(9))) == {0.0, 1.0}


def test_cost_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a finite cost .* look for NaN in the features"):
        couplings.sinkhorn_coupling(np.array([[1.0, np.nan]]), epsilon=1.0)


def test_unbalanced_coupling_agrees_with_pot(rng) -> None:
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    found = couplings.unbalanced_coupling(cost, epsilon=0.8, reach=1.5, tolerance=1e-12, max_iterations=5000)
    theirs = sinkhorn_unbalanced(
        np.full(7, 1 / 7), np.full(5, 1 / 5), cost, 0.8, 1.5, reg_type="kl", stopThr=1e-14, numItermax=20_000
    )
    assert found.converged
    np.testing.assert_allclose(found.plan, theirs, rtol=1e-6)


def test_unbalanced_leaves_what_lies_too_far_away(rng) -> None:
    """One point of each cloud is an outlier: balanced transport moves its whole mass, unbalanced next to none of it."""
    x = rng.normal(size=(10, 2)) * 0.1
    y = rng.normal(size=(10, 2)) * 0.1
    x[0] += 100
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    balanced = couplings.sinkhorn_coupling(cost, epsilon=0.5)
    unbalanced = couplings.unbalanced_coupling(cost, epsilon=0.5, reach=1.0)
    assert balanced.plan[0].sum() == pytest.approx(0.1, rel=1e-3)
    assert unbalanced.plan[0].sum() < 1e-6
    assert unbalanced.plan[1:].sum() > 0.8


def test_unbalanced_needs_positive_settings(rng) -> None:
    with pytest.raises(ValueError, match="expected epsilon > 0 and reach > 0"):
        couplings.unbalanced_coupling(np.ones((2, 2)), epsilon=0.1, reach=0)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_epsilon_that_is_not_positive_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="expected epsilon > 0, in the unit of the cost; received"):
        couplings.sinkhorn_coupling(np.ones((2, 2)), epsilon=epsilon)
