"""Transport: closed forms, properties for any input, messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otmf.objectives import couplings, transport


def cloud(rows: int, columns: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_transport_cost_of_two_points_is_their_squared_distance() -> None:
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert float(transport.transport_cost(x, y, epsilon=0.1)) == pytest.approx(25.0)


def test_transport_cost_of_a_shift_is_its_squared_length_at_small_epsilon() -> None:
    x = 10 * cloud(8)
    assert float(transport.transport_cost(x, x + 0.1, epsilon=0.001)) == pytest.approx(5 * 0.01, rel=1e-3)


def test_divergence_of_a_shift_is_its_squared_length_at_any_epsilon() -> None:
    """The divergence is exact on translations: entropic terms cancel. At small epsilon the iterations end first."""
    x = cloud(12)
    for epsilon, tolerance in ((0.05, 1e-4), (0.5, 1e-6), (5.0, 1e-6)):
        value = transport.sinkhorn_divergence(x, x + 0.7, epsilon=epsilon, tolerance=1e-10, max_iterations=5000)
        assert float(value) == pytest.approx(5 * 0.49, rel=tolerance)


def test_gradient_of_the_regularised_cost_is_the_envelope_gradient() -> None:
    """Finite differences of the converged value agree with the gradient that holds the coupling constant."""
    x, y = cloud(6).requires_grad_(), cloud(7, seed=1)
    epsilon = 0.3 * float(transport.squared_distances(x, y).detach().mean())

    def value(points: torch.Tensor) -> torch.Tensor:
        cost = transport.squared_distances(points, y)
        relative = epsilon / float(cost.detach().mean())
        return transport.regularised_cost(points, y, epsilon=relative, tolerance=1e-13, max_iterations=20_000)

    (gradient,) = torch.autograd.grad(value(x), x)
    step = 1e-5
    for row, column in ((0, 0), (3, 2), (5, 4)):
        moved = x.detach().clone()
        moved[row, column] += step
        upper = float(value(moved))
        moved[row, column] -= 2 * step
        assert float(gradient[row, column]) == pytest.approx(
            (upper - float(value(moved))) / (2 * step), rel=1e-4, abs=1e-7
        )


def test_three_quantities_are_what_their_definitions_say() -> None:
    x, y, epsilon = cloud(9), cloud(9, seed=1), 0.2
    cost = transport.squared_distances(x, y).numpy()
    scale = epsilon * cost.mean()
    found = couplings.sinkhorn_coupling(cost, epsilon=scale, tolerance=1e-12, max_iterations=20_000)
    options = {"epsilon": epsilon, "tolerance": 1e-12, "max_iterations": 20_000}
    entropy = float((found.plan * np.log(found.plan * 81)).sum())
    assert float(transport.transport_cost(x, y, **options)) == pytest.approx(float((found.plan * cost).sum()))
    regularised = float(transport.regularised_cost(x, y, **options))
    assert regularised == pytest.approx(float((found.plan * cost).sum()) + scale * entropy)

    def own(points: torch.Tensor) -> float:
        within = transport.squared_distances(points, points).numpy()
        plan = couplings.sinkhorn_coupling(within, epsilon=scale, tolerance=1e-12, max_iterations=20_000)
        return couplings.regularised_value(plan, within, epsilon=scale)

    expected = regularised - (own(x) + own(y)) / 2
    assert float(transport.sinkhorn_divergence(x, y, **options)) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 16), st.integers(0, 1000), st.floats(0.05, 1.0))
def test_divergence_is_zero_between_equal_clouds_and_never_below(rows: int, seed: int, epsilon: float) -> None:
    x, y = cloud(rows, seed=seed), cloud(rows, seed=seed + 1)
    options = {"epsilon": epsilon, "tolerance": 1e-9, "max_iterations": 5000}
    assert float(transport.sinkhorn_divergence(x, x.clone(), **options)) == pytest.approx(0.0, abs=1e-9)
    assert float(transport.sinkhorn_divergence(x, y, **options)) > -1e-6


def test_divergence_does_not_depend_on_the_order_of_samples() -> None:
    x, y = cloud(10), cloud(10, seed=1)
    shuffled = y[torch.randperm(10, generator=torch.Generator().manual_seed(3))]
    one = transport.sinkhorn_divergence(x, y, epsilon=0.1, tolerance=1e-10, max_iterations=5000)
    assert float(one) == pytest.approx(
        float(transport.sinkhorn_divergence(x, shuffled, epsilon=0.1, tolerance=1e-10, max_iterations=5000))
    )


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_epsilon_that_is_not_positive_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="expected epsilon > 0, in units of the mean cost; received"):
        transport.transport_cost(cloud(3), cloud(3), epsilon=epsilon)


def test_clouds_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two clouds of shape"):
        transport.squared_distances(cloud(3, 4), cloud(3, 5))


def test_unbalanced_with_a_great_reach_is_balanced(rng) -> None:
    x, y = torch.from_numpy(rng.normal(size=(8, 3))), torch.from_numpy(rng.normal(size=(8, 3)) + 0.5)
    options = {"epsilon": 0.5, "tolerance": 1e-12, "max_iterations": 20_000}
    balanced = transport.sinkhorn_divergence(x, y, **options)
    assert float(transport.unbalanced_divergence(x, y, reach=1e6, **options)) == pytest.approx(
        float(balanced), rel=1e-4
    )


def test_unbalanced_divergence_is_zero_for_equal_clouds_and_its_gradient_is_that_of_its_value(rng) -> None:
    x, y = torch.from_numpy(rng.normal(size=(6, 2))), torch.from_numpy(rng.normal(size=(6, 2)) + 1)
    options = {"reach": 0.7, "tolerance": 1e-13, "max_iterations": 20_000}
    assert float(transport.unbalanced_divergence(x, x, epsilon=0.3, **options)) == pytest.approx(0, abs=1e-9)
    scale = float(transport.squared_distances(x, y).mean())

    def value(points: torch.Tensor) -> torch.Tensor:
        relative = scale / float(
            transport.squared_distances(points, y).mean().detach()
        )  # one epsilon in absolute units
        return transport.unbalanced_divergence(
            points, y, epsilon=0.3 * relative, reach=0.7 * relative, tolerance=1e-13, max_iterations=20_000
        )

    points = x.clone().requires_grad_()
    value(points).backward()
    step = 1e-5
    for place in ((0, 0), (3, 1)):
        moved = [x.clone(), x.clone()]
        moved[0][place] += step
        moved[1][place] -= step
        numeric = (float(value(moved[0])) - float(value(moved[1]))) / (2 * step)
        assert float(points.grad[place]) == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def test_dissimilarity_has_no_unit_and_grows_with_the_distance(rng) -> None:
    y = torch.from_numpy(rng.normal(size=(40, 4)))
    near, far = (transport.dissimilarity(y + shift, y, epsilon=0.05) for shift in (0.5, 2.0))
    assert 0 < near < far
    assert transport.dissimilarity(1000 * (y + 2.0), 1000 * y, epsilon=0.05) == pytest.approx(far, rel=1e-3)
    assert transport.dissimilarity(y, y, epsilon=0.05) == pytest.approx(0, abs=1e-6)
    assert transport.dissimilarity(y, torch.ones(5, 4, dtype=y.dtype), epsilon=0.05) == float("inf")
