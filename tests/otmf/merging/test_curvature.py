"""Curvature in Kronecker factors: exact where the Gauss-Newton matrix is one product, a minimum in closed form, sums that do not grow."""

from __future__ import annotations

import pytest
import torch

from otmf.merging import curvature

OUT, IN = 5, 7


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def square(size: int, seed: int) -> torch.Tensor:
    found = drawn(size, 2 * size, seed=seed)
    return found @ found.T / size


def factors(seed: int, scale: float = 1.0) -> curvature.Curvature:
    outer = square(OUT, seed + 1)
    return curvature.Curvature(
        {"a.weight": (scale * square(IN, seed),)},
        {"a.weight": (outer / outer.trace(),)},
        {"a.bias": scale * drawn(OUT, seed=seed).square()},
    )


def change(seed: int) -> dict[str, torch.Tensor]:
    return {"a.weight": drawn(OUT, IN, seed=seed), "a.bias": drawn(OUT, seed=seed + 1)}


def test_of_a_linear_model_it_foretells_the_change_of_predictions() -> None:
    """z = C (W x + b): the matrix is (C^T C) times (x x^T). Two per cent for the 2,000 draws of each input."""
    mixed, inputs = drawn(3, OUT, seed=4), drawn(6, IN, seed=5)
    state = {"a.weight": drawn(OUT, IN, seed=6), "a.bias": drawn(OUT, seed=7), "count": torch.tensor(3)}
    found = curvature.of_predictions(
        lambda own, x: (x @ own["a.weight"].T + own["a.bias"]) @ mixed.T,
        state,
        inputs,
        probes=2000,
        batch_size=4,
        seed=0,
    )
    v = drawn(OUT, IN, seed=8)
    expected = float((inputs @ v.T @ mixed.T).square().sum(dim=1).mean())
    assert found.of({"a.weight": v}) == pytest.approx(expected, rel=0.02)
    torch.testing.assert_close(found.diagonal["a.bias"], mixed.square().sum(dim=0), rtol=0.05, atol=0)
    assert float(found.outer["a.weight"][0].trace()) == pytest.approx(1)


def test_slope_is_the_gradient() -> None:
    found, v, along = factors(1), change(2), change(3)
    numeric = (
        found.of({key: v[key] + 1e-5 * along[key] for key in v}) - found.of({key: v[key] - 1e-5 * along[key] for key in v})
    ) / 2e-5  # fmt: skip
    assert sum(float((found.slope(key, v[key]) * along[key]).sum()) for key in v) == pytest.approx(numeric, rel=1e-6)
    assert not found.slope("unknown", v["a.bias"]).any()


def test_merge_is_where_both_slopes_cancel() -> None:
    old, new, D, tau = factors(1), factors(2, 0.3), change(3), change(4)
    found = curvature.merged(D, old, tau, new, count=2, damping=1e-12)
    for key in D:
        total = old.slope(key, found[key] - D[key]) + new.slope(key, found[key] - tau[key])
        torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-9, rtol=0)


def test_wide_weights_are_taken_in_parts(monkeypatch) -> None:
    """Between parts nothing is assumed: each tile of the weight is as if it were a weight of its own."""
    monkeypatch.setattr(curvature, "TILE", 4)
    inputs, mixed = drawn(9, IN, seed=5), drawn(3, OUT, seed=4)
    old, new = (
        curvature.of_predictions(
            lambda own, x: torch.tanh(x @ own["a.weight"].T) @ mixed.T,
            {"a.weight": drawn(OUT, IN, seed=seed)}, inputs, probes=3, batch_size=2, seed=seed,
        ) for seed in (1, 2)
    )  # fmt: skip
    assert [len(A) for A in old.inner["a.weight"]] == [4, 3]
    assert [len(B) for B in old.outer["a.weight"]] == [3, 2]
    D, tau = {"a.weight": drawn(OUT, IN, seed=3)}, {"a.weight": drawn(OUT, IN, seed=4)}
    found = curvature.merged(D, old, tau, new, count=2, damping=1e-6)["a.weight"]
    alone = curvature.merged(
        {"a.weight": D["a.weight"][3:, :4]},
        curvature.Curvature({"a.weight": old.inner["a.weight"][:1]}, {"a.weight": old.outer["a.weight"][1:]}, {}),
        {"a.weight": tau["a.weight"][3:, :4]},
        curvature.Curvature({"a.weight": new.inner["a.weight"][:1]}, {"a.weight": new.outer["a.weight"][1:]}, {}),
        count=2,
        damping=1e-6,
    )["a.weight"]
    torch.testing.assert_close(found[3:, :4], alone)


def test_what_nothing_depends_on_moves_nothing() -> None:
    none, D, tau = factors(1, 0.0), change(3), change(4)
    kept = curvature.merged(D, factors(2), tau, none, count=2, damping=1e-9)
    taken = curvature.merged(D, none, tau, factors(2), count=2, damping=1e-9)
    for key in D:
        torch.testing.assert_close(kept[key], D[key], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(taken[key], tau[key], atol=1e-6, rtol=1e-6)
    both = curvature.merged(D, none, tau, none, count=2, damping=1e-2)
    assert all(bool(value.isfinite().all()) for value in both.values())


def test_damping_holds_linear_weights_at_the_merged_vector_and_draws_others_to_the_base() -> None:
    D, flat = change(3), torch.tensor([4.0, 1.0, 0.01, 0.0, 0.0], dtype=torch.float64)
    old, new = (curvature.Curvature(found.inner, found.outer, {"a.bias": flat}) for found in (factors(1), factors(2)))
    found = curvature.merged(D, old, D, new, count=2, damping=1e-2)
    torch.testing.assert_close(found["a.weight"], D["a.weight"])
    expected = 2 * flat / (2 * flat + 1e-2 * 2 * flat.mean())
    torch.testing.assert_close(found["a.bias"], expected * D["a.bias"])


def test_sum_keeps_what_one_of_both_does_not_know() -> None:
    one, other = factors(1), factors(2)
    less = curvature.Curvature({}, {}, {"a.bias": other.diagonal["a.bias"]})
    for total in (one.plus(less), less.plus(one)):
        torch.testing.assert_close(total.inner, one.inner)
        torch.testing.assert_close(total.outer, one.outer)
        torch.testing.assert_close(total.diagonal["a.bias"], one.diagonal["a.bias"] + other.diagonal["a.bias"])
    none = curvature.Curvature({}, {}, {})
    assert one.plus(none).of(change(5)) == none.plus(one).of(change(5)) == pytest.approx(one.of(change(5)))


def test_unknown_tensors_are_averaged_over_the_tasks() -> None:
    empty = curvature.Curvature({}, {}, {})
    found = curvature.merged({"x": torch.zeros(2)}, empty, {"x": torch.full((2,), 3.0)}, empty, count=3, damping=1e-2)
    assert found["x"].tolist() == [1.0, 1.0]


def test_sum_weighs_outer_factors_and_does_not_grow() -> None:
    one, other = factors(1), factors(2, 3.0)
    total = one.plus(other)
    torch.testing.assert_close(total.inner["a.weight"][0], one.inner["a.weight"][0] + other.inner["a.weight"][0])
    mine, theirs = (float(found.inner["a.weight"][0].trace()) for found in (one, other))
    expected = (mine * one.outer["a.weight"][0] + theirs * other.outer["a.weight"][0]) / (mine + theirs)
    torch.testing.assert_close(total.outer["a.weight"][0], expected)
    torch.testing.assert_close(total.diagonal["a.bias"], one.diagonal["a.bias"] + other.diagonal["a.bias"])
    assert {key: value.shape for key, value in total.tensors().items()} == {
        key: value.shape for key, value in one.tensors().items()
    }
    doubled = one.plus(one).of(change(5))
    assert doubled == pytest.approx(2 * one.of(change(5)))
    assert doubled == pytest.approx(one.scaled(2.0).of(change(5)))


def test_tensors_lead_back() -> None:
    one = factors(1)
    again = curvature.from_tensors(one.tensors())
    assert again.of(change(2)) == pytest.approx(one.of(change(2)))
    assert again.tensors().keys() == one.tensors().keys()


def test_rows_of_a_table_of_embeddings_count_as_one() -> None:
    state, tokens = {"word_embeddings.weight": drawn(4, 3)}, torch.tensor([[0, 2], [2, 3]])
    found = curvature.of_predictions(
        lambda own, x: own["word_embeddings.weight"][x].sum(dim=1), state, tokens, probes=50, batch_size=1, seed=0
    )
    rows = found.diagonal["word_embeddings.weight"]
    assert rows.shape == (4, 1)
    assert rows[1] == 0
    assert rows[2] > 1.5 * rows[0] > 0
