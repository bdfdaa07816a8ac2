"""What is drawn back: the minimiser it says it is, stable however steep, alike for curvature in parts and whole."""

from __future__ import annotations

import pytest
import torch

from otmf.merging import curvature, retention
from tests.otmf.merging.test_curvature import IN, OUT, change, factors


def mean_eigenvalue(found: curvature.Curvature) -> float:
    whole = torch.kron(found.outer["a.weight"][0], found.inner["a.weight"][0])
    return float(whole.diagonal().mean())


def at_zero(old: curvature.Curvature, strength: float) -> retention.Retention:
    """Draws back to zero: what is drawn back is then the change itself."""
    shapes = {key: (len(old.outer[key][0]), sum(map(len, parts))) for key, parts in old.inner.items()}
    anchor = {key: torch.zeros(shape, dtype=old.inner[key][0].dtype) for key, shape in shapes.items()}
    return retention.Retention(
        old, {**anchor, **{key: torch.zeros_like(d) for key, d in old.diagonal.items()}}, strength
    )


def test_it_is_the_minimiser_of_distance_and_curvature() -> None:
    old, c = factors(1), change(2)
    kept = at_zero(old, 0.3)
    x = {key: value.clone().requires_grad_() for key, value in c.items()}
    with torch.no_grad():
        for key, value in c.items():
            x[key].copy_(kept.drawn_back(key, value, 2.0))
    distance = sum((x[key] - c[key]).square().sum() for key in c)
    Q = sum((old.slope(key, x[key]) * x[key]).sum() for key in c) / 2
    gradients = torch.autograd.grad(distance + 0.3 * 2.0 / mean_eigenvalue(old) * Q, list(x.values()))
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


def test_it_draws_towards_its_anchor() -> None:
    old, anchor, c = factors(1), change(3), change(2)
    kept, free = retention.Retention(old, anchor, 0.3), at_zero(old, 0.3)
    for key, value in c.items():
        torch.testing.assert_close(kept.drawn_back(key, anchor[key], 2.0), anchor[key])
        expected = anchor[key] + free.drawn_back(key, value, 2.0)
        torch.testing.assert_close(kept.drawn_back(key, anchor[key] + value, 2.0), expected)


def test_it_never_overshoots_and_leaves_what_is_flat() -> None:
    old = curvature.Curvature({"a.weight": (torch.diag(torch.tensor([1e12, 0.0])),)}, {"a.weight": (torch.eye(1),)}, {})
    found = at_zero(old, 0.05).drawn_back("a.weight", torch.tensor([[1.0, 1.0]]), 100)
    assert 0 <= float(found[0, 0]) < 0.2
    assert float(found[0, 1]) == 1.0


def test_unknown_tensors_and_no_curvature_at_all_change_nothing() -> None:
    unknown = retention.Retention(factors(1), {"unknown": torch.zeros(OUT, dtype=torch.float64)}, 1.0)
    assert torch.equal(unknown.drawn_back("unknown", change(2)["a.bias"], 5), change(2)["a.bias"])
    nothing = at_zero(factors(1, scale=0.0), 1.0)
    for key, value in change(2).items():
        torch.testing.assert_close(nothing.drawn_back(key, value, 5), value)


def test_projection_kept_as_in_and_out_is_drawn_back_the_right_way_round() -> None:
    old = factors(1)
    turned = curvature.Curvature({"a.proj": old.inner["a.weight"]}, {"a.proj": old.outer["a.weight"]}, {})
    found = retention.Retention(turned, {"a.proj": torch.zeros(IN, OUT, dtype=torch.float64)}, 0.3).drawn_back(
        "a.proj", change(2)["a.weight"].T, 2.0
    )
    expected = at_zero(old, 0.3).drawn_back("a.weight", change(2)["a.weight"], 2.0)
    torch.testing.assert_close(found, expected.T)


def test_parts_stand_for_a_matrix_of_blocks() -> None:
    old = factors(1)
    whole, outer = old.inner["a.weight"][0].clone(), old.outer["a.weight"]
    whole[:4, 4:], whole[4:, :4] = 0, 0
    parted = curvature.Curvature({"a.weight": (whole[:4, :4], whole[4:, 4:])}, {"a.weight": outer}, {})
    single = curvature.Curvature({"a.weight": (whole,)}, {"a.weight": outer}, {})
    value = change(2)["a.weight"]
    assert value.shape == (OUT, IN)
    found, expected = (at_zero(one, 0.3).drawn_back("a.weight", value, 2.0) for one in (parted, single))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_keeps_the_precision_of_the_curvature(dtype) -> None:
    old = factors(1)
    cast = curvature.Curvature(
        {key: tuple(part.to(dtype) for part in parts) for key, parts in old.inner.items()},
        {key: tuple(part.to(dtype) for part in parts) for key, parts in old.outer.items()},
        {key: d.to(dtype) for key, d in old.diagonal.items()},
    )
    found = at_zero(cast, 0.3).drawn_back("a.weight", change(2)["a.weight"].to(dtype), 1.0)
    assert found.dtype == dtype
