"""Methods against a few lines that transcribe their definitions, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from otmf import methods
from otmf.methods.baselines import opcm, ties, tsv_m, wudi
from otmf.settings import merge_methods
from tests.otmf.methods.test_methods import KEYS, VECTORS, assert_equal, stream

LINEAR = ("block.weight", "proj")
OTHER = tuple(key for key in KEYS if key not in LINEAR)


def flat(vector) -> torch.Tensor:
    return torch.cat([vector[key].flatten() for key in sorted(vector)])


def unflat(values: torch.Tensor) -> dict[str, torch.Tensor]:
    keys = sorted(KEYS)
    parts = values.split([math.prod(KEYS[key]) for key in keys])
    return {key: part.view(KEYS[key]) for key, part in zip(keys, parts, strict=True)}


def published_ties(rows: torch.Tensor, density: float) -> torch.Tensor:
    """Trim, elect, sum: on rows of flattened vectors."""
    d = rows.shape[1]
    keep = int(density * d)
    threshold = rows.abs().sort(dim=1).values[:, d - keep - 1 : d - keep]
    trimmed = rows * (rows.abs() >= threshold)
    sign = trimmed.sum(0).sign()
    sign[sign == 0] = sign.sum().sign()
    agree = (trimmed.sign() == sign) & (trimmed != 0)
    return (trimmed * agree).sum(0)


def test_ties_is_trim_elect_and_sum() -> None:
    rows = torch.stack([flat(v) for v in VECTORS])
    found = ties.joint(VECTORS, merge_methods.Ties(coefficient=0.7, density=0.3))
    assert_equal(found, unflat(0.7 * published_ties(rows, 0.3)))


def test_ties_as_a_chain_merges_the_last_merge_with_the_new_vector() -> None:
    merged = published_ties(flat(VECTORS[0])[None], 0.4)
    for vector in VECTORS[1:]:
        merged = published_ties(torch.stack([merged, flat(vector)]), 0.4)
    assert_equal(stream("ties", VECTORS, density=0.4, coefficient=0.5), unflat(0.5 * merged))


def test_published_ties_adds_to_what_it_contains_already() -> None:
    merged = 0.3 * flat(VECTORS[0])
    for vector in VECTORS[1:]:
        merged = merged + 0.3 * published_ties(torch.stack([merged, flat(vector)]), 0.2)
    assert_equal(stream("ties_published", VECTORS), unflat(merged))


def test_magmax_is_the_entry_of_the_greatest_magnitude() -> None:
    rows = torch.stack([flat(v) for v in VECTORS])
    expected = rows.gather(0, rows.abs().argmax(0, keepdim=True))[0]
    assert_equal(stream("magmax", VECTORS), unflat(0.5 * expected))


def test_of_equal_magnitudes_magmax_takes_the_later() -> None:
    opposite = {key: -value for key, value in VECTORS[0].items()}
    assert_equal(stream("magmax", [VECTORS[0], opposite], coefficient=1.0), opposite)


@pytest.mark.parametrize("drop", [0.0, 0.5, 0.9])
def test_dare_keeps_some_entries_and_scales_them(drop) -> None:
    found = stream("dare", [VECTORS[0]], drop=drop, coefficient=1.0)
    ratio = flat(found) / flat(VECTORS[0])
    kept = ratio != 0
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / (1 - drop)))
    assert abs(float(kept.double().mean()) - (1 - drop)) < 0.15
    assert_equal(stream("dare", [VECTORS[0]], drop=drop, coefficient=1.0), found)


def published_opcm(vectors, alpha: float) -> dict[str, torch.Tensor]:
    """Algorithm 1 with full SVDs."""
    merged, scale, norms = dict(vectors[0]), 1.0, [flat(vectors[0]).norm()]
    for tau in vectors[1:]:
        norms.append(flat(tau).norm())
        total = {}
        for key, value in tau.items():
            if key in LINEAR:
                U, s, Vh = torch.linalg.svd(merged[key], full_matrices=True)
                r = int((s.cumsum(0) / s.sum() > alpha).nonzero()[0])
                P = U.T @ value @ Vh.T
                for i in range(min(P.shape)):
                    P[i, i] = 0
                P[:r, :r] = 0
                value = U @ P @ Vh
            total[key] = scale * merged[key] + value
        scale = float(flat(total).norm() / torch.stack(norms).mean())
        merged = {key: value / scale for key, value in total.items()}
    return merged


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_opcm_is_its_algorithm(alpha) -> None:
    assert_equal(stream("opcm", VECTORS, threshold=alpha), published_opcm(VECTORS, alpha))


def test_opcm_keeps_the_mean_norm() -> None:
    norms = [flat(v).norm() for v in VECTORS]
    torch.testing.assert_close(flat(stream("opcm", VECTORS)).norm(), sum(norms) / 3)


def test_projection_of_a_rank_deficient_weight_does_not_depend_on_the_basis_of_its_null_space() -> None:
    low = torch.outer(torch.arange(6.0, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    tau = VECTORS[0]["block.weight"]
    u, v = low.sum(1) / low.sum(1).norm(), torch.ones(4, dtype=torch.float64) / 2
    expected = tau - torch.outer(u, v) * (u @ tau @ v)
    torch.testing.assert_close(opcm.project(low, tau, 0.5), expected, atol=1e-10, rtol=1e-10)


def projector(weight: torch.Tensor, rank: int) -> torch.Tensor:
    _, _, Vh = torch.linalg.svd(weight)
    return Vh[:rank].T @ Vh[:rank]


def test_null_space_takes_the_old_input_directions_away() -> None:
    found = stream("null_space", VECTORS, null_rank=2)
    for key in LINEAR:
        taus = [v[key].T if key == "proj" else v[key] for v in VECTORS]
        merged = taus[0]
        for tau in taus[1:]:
            merged = merged + tau @ (torch.eye(tau.shape[1], dtype=torch.float64) - projector(merged, 2))
        torch.testing.assert_close(found[key].T if key == "proj" else found[key], merged, atol=1e-10, rtol=1e-10)
    for key in OTHER:
        torch.testing.assert_close(found[key], sum(v[key] for v in VECTORS) / 3)


def test_nufilts_learned_part_lowers_its_loss() -> None:
    """From B = 0, which is the null space alone, towards D on the old directions and tau on the new ones."""

    def loss(found) -> float:
        D, tau = VECTORS[0]["block.weight"], VECTORS[1]["block.weight"]
        old, new = projector(D, 2), projector(tau, 1)
        return float(
            ((found["block.weight"] - D) @ old).square().sum() + ((found["block.weight"] - tau) @ new).square().sum()
        )

    options = {"null_rank": 2, "new_rank": 1, "adapter_rank": 3, "learning_rate": 0.01}
    alone = loss(stream("null_space", VECTORS[:2], null_rank=2))
    one, many = (loss(stream("nufilt", VECTORS[:2], **options, steps=steps)) for steps in (1, 200))
    assert many < 0.8 * alone
    assert many < one < alone * 1.01
    assert_equal(stream("nufilt", VECTORS[:2], **options, steps=50), stream("nufilt", VECTORS[:2], **options, steps=50))


def test_iso_makes_singular_values_equal() -> None:
    found = stream("iso_c", VECTORS, coefficient=1.5)
    for key, shape in KEYS.items():
        total = sum(v[key] for v in VECTORS)
        if len(shape) == 2:
            U, s, Vh = torch.linalg.svd(total, full_matrices=False)
            torch.testing.assert_close(found[key], 1.5 * s.mean() * U @ Vh, atol=1e-10, rtol=1e-10)
        else:
            torch.testing.assert_close(found[key], 1.5 * total / 3, atol=1e-10, rtol=1e-10)


def published_tsv_m(weights) -> torch.Tensor:
    n, T = min(weights[0].shape), len(weights)
    k = n // T
    parts = [torch.linalg.svd(weight, full_matrices=False) for weight in weights]
    U = torch.cat([u[:, :k] for u, _, _ in parts], dim=1)
    S = torch.cat([s[:k] for _, s, _ in parts])
    V = torch.cat([vh[:k] for _, _, vh in parts]).T
    polar = []
    for M in (U, V):
        P, _, Qh = torch.linalg.svd(M, full_matrices=False)
        polar.append(P @ Qh)
    return polar[0] @ torch.diag(S) @ polar[1].T


def test_tsv_m_is_the_orthogonalised_leading_triplets() -> None:
    found = tsv_m.joint(VECTORS[:2], merge_methods.TsvM(coefficient=0.8))
    for key, shape in KEYS.items():
        weights = [v[key] for v in VECTORS[:2]]
        expected = published_tsv_m(weights) if len(shape) == 2 else sum(weights) / 2
        torch.testing.assert_close(found[key], 0.8 * expected, atol=1e-10, rtol=1e-10)
    assert_equal(stream("tsv_m", VECTORS[:2], coefficient=0.8), found)


def test_dop_goes_down_its_balanced_loss() -> None:
    def losses(W) -> list[float]:
        found = []
        for other in (VECTORS[0]["block.weight"], VECTORS[1]["block.weight"]):
            U, s, Vh = torch.linalg.svd(other, full_matrices=False)
            away = W - other
            found.append(float((s[:, None] * (U.T @ away)).square().sum() + ((away @ Vh.T) * s).square().sum()))
        return found

    average = (VECTORS[0]["block.weight"] + VECTORS[1]["block.weight"]) / 2
    found = stream("dop", VECTORS[:2], learning_rate=0.01, spectrum=1.0)
    assert sum(losses(found["block.weight"])) < sum(losses(average))
    one = stream("dop", VECTORS[:2], steps=1, learning_rate=0.01, balance_decay=1.0, spectrum=1.0)["block.weight"]
    W = average.clone().requires_grad_()
    terms = []
    for other in (VECTORS[0]["block.weight"], VECTORS[1]["block.weight"]):
        U, s, Vh = torch.linalg.svd(other, full_matrices=False)
        terms.append((s[:, None] * (U.T @ (W - other))).square().sum() + (((W - other) @ Vh.T) * s).square().sum())
    (gradient,) = torch.autograd.grad(0.8 * terms[0] + 0.2 * terms[1], W)
    torch.testing.assert_close(one, average - 0.01 * gradient / (gradient.abs() + 1e-8), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(
        stream("dop", VECTORS[:2])["block.bias"], (VECTORS[0]["block.bias"] + VECTORS[1]["block.bias"]) / 2
    )


def test_joint_wudi_is_adam_from_the_sum_as_published() -> None:
    found = wudi.joint(VECTORS, merge_methods.Wudi())
    for key in KEYS:
        mean = sum(vector[key] for vector in VECTORS) / len(VECTORS)
        if key not in LINEAR:
            torch.testing.assert_close(found[key], mean, atol=1e-10, rtol=1e-10)
            continue
        taus = [vector[key].T if key == "proj" else vector[key] for vector in VECTORS]
        m = torch.stack(taus).sum(0).requires_grad_()
        adam = torch.optim.Adam([m], lr=1e-5)
        for _ in range(300):
            adam.zero_grad()
            sum(((m - tau) @ tau.T).square().sum() / tau.square().sum() for tau in taus).backward()
            adam.step()
        torch.testing.assert_close(found[key], m.T if key == "proj" else m, atol=1e-10, rtol=1e-10)


def test_joint_forms_are_of_methods_whose_chain_is_another_merge() -> None:
    assert {name for name, method in methods.METHODS.items() if method.joint} == {"ties", "tsv_m", "wudi"}
