"""Objectives: closed forms, invariance under what each does not read, and heads for each row."""

from __future__ import annotations

import math
import typing

import pytest
import torch

from otmf import heads, settings
from otmf.objectives import losses

NAMES = typing.get_args(settings.Otmf.model_fields["objective"].annotation)

ENTROPIC = ("transport_cost", "sinkhorn_divergence", "regularised_cost")


def cloud(rows: int, columns: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(classes: int, seed: int, columns: int = 5) -> heads.Head:
    return heads.Head(4 * cloud(classes, columns, seed), torch.zeros(classes, dtype=torch.float64))


def value(name: str, student: torch.Tensor, targets: torch.Tensor, predictors=None) -> torch.Tensor:
    objective = losses.chosen(name, epsilon=0.05, reach=None, seed=0)
    return objective(student, targets, predictors or losses.Predictors((head(3, 9),)))


def test_every_name_of_the_settings_is_an_objective_and_no_other() -> None:
    assert set(NAMES) == set(losses.ON_FEATURES) | losses.ON_PREDICTIONS


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"entropy", "transport_cost", "regularised_cost"}))
def test_equal_clouds_cost_nothing(name) -> None:
    x = cloud(16)
    assert float(value(name, x, x)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(ENTROPIC)))
def test_gradient_is_that_of_the_value(name) -> None:
    """Exact couplings are constant nearby. (Entropic ones are held constant: test_transport.)"""
    x, y, along = cloud(8), cloud(8, seed=1), 1e-5 * cloud(8, seed=2)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(name, leaf, y), leaf)
    if name == "mmd":  # the width is held constant
        width = (x[:, None] - y[None]).square().sum(-1).mean()

        def again(p: torch.Tensor) -> torch.Tensor:
            kernels = [
                torch.exp(-(a[:, None] - b[None]).square().sum(-1) / width).mean() for a, b in ((p, p), (y, y), (p, y))
            ]
            return kernels[0] + kernels[1] - 2 * kernels[2]
    else:

        def again(p: torch.Tensor) -> torch.Tensor:
            return value(name, p, y)

    expected = float(again(x + along) - again(x - along)) / 2
    assert float((gradient * along).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(
    "name", ["sinkhorn_divergence", "transport_cost", "regularised_cost", "exact_cost", "sliced_cost", "mmd"]
)
def test_objectives_on_clouds_do_not_read_pairs(name) -> None:
    x, y = cloud(12), cloud(12, seed=1)
    assert float(value(name, x, y[torch.randperm(12)])) == pytest.approx(float(value(name, x, y)), rel=1e-4)


@pytest.mark.parametrize("name", ["mse", "l1", "kl", "logits"])
def test_paired_objectives_read_pairs(name) -> None:
    x = cloud(12)
    assert float(value(name, x, x.roll(1, 0))) > 0.05


def test_exact_and_sliced_cost_of_a_shift_are_its_squared_length() -> None:
    x, shift = cloud(12, 40), cloud(1, 40, seed=3)
    squared = float(shift.square().sum())
    assert float(value("exact_cost", x, x + shift)) == pytest.approx(squared)
    found = [
        float(losses.chosen("sliced_cost", epsilon=1, reach=None, seed=seed)(x, x + shift, None)) for seed in range(30)
    ]
    assert sum(found) / len(found) == pytest.approx(squared, rel=0.1)


def test_sliced_cost_draws_other_directions_at_each_call_and_the_same_from_one_seed() -> None:
    x, y = cloud(12), cloud(12, seed=1)
    one, other = (losses.chosen("sliced_cost", epsilon=1, reach=None, seed=4) for _ in range(2))
    first, second = float(one(x, y, None)), float(one(x, y, None))
    assert first != second
    assert (first, second) == (float(other(x, y, None)), float(other(x, y, None)))


def test_sliced_cost_asks_for_clouds_of_one_size() -> None:
    with pytest.raises(ValueError, match=r"expected two clouds of one shape .* received \(3, 5\) and \(4, 5\); give"):
        value("sliced_cost", cloud(3), cloud(4))


def test_mmd_is_that_of_its_definition() -> None:
    x, y = cloud(6), cloud(9, seed=1)
    width = float((x[:, None] - y[None]).square().sum(-1).mean())
    kernel = [
        sum(math.exp(-float((a - b).square().sum()) / width) for a in one for b in other) / len(one) / len(other)
        for one, other in ((x, x), (y, y), (x, y))
    ]
    assert float(losses.mmd(x, y)) == pytest.approx(kernel[0] + kernel[1] - 2 * kernel[2], rel=1e-10)


def test_mmd_of_one_point_is_finite() -> None:
    x = torch.zeros(4, 3, requires_grad=True)
    losses.mmd(x, torch.zeros(4, 3)).backward()
    assert torch.isfinite(x.grad).all()


def test_kl_and_entropy_are_those_of_their_definitions() -> None:
    student, teacher = cloud(7, 4), cloud(7, 4, seed=1)
    p, q = teacher.softmax(-1), student.softmax(-1)
    assert float(losses.kl(student, teacher)) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-10)
    assert float(losses.entropy(student)) == pytest.approx(float(-(q * q.log()).sum(-1).mean()), rel=1e-10)


def test_centred_logits_are_blind_to_scale_offset_and_bias() -> None:
    x, own = cloud(6), head(3, 4)
    moved = heads.Head(7 * (own.weight + cloud(1, 5, 8)), own.bias + 3)
    length = own.weight.norm(dim=1).mean() / moved.weight.norm(dim=1).mean()
    found = losses.centred(own, x)
    torch.testing.assert_close(losses.centred(own, 5 * x), found)
    torch.testing.assert_close(losses.centred(moved, x) / length, 7 * found)
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_logits_are_counted_in_the_units_of_their_tasks() -> None:
    x, y = cloud(4), cloud(4, seed=1)
    own, place = (head(3, 5), head(7, 6)), torch.tensor([0, 1, 1, 0])
    apart = [
        (losses.centred(own[k], x[r : r + 1]) - losses.centred(own[k], y[r : r + 1])).square().sum()
        for r, k in enumerate(place)
    ]
    found = value("logits", x, y, losses.Predictors(own, place, (2.0, 0.5)))
    assert float(found) == pytest.approx(float((apart[0] + apart[3]) / 2 + (apart[1] + apart[2]) / 0.5) / 4)


@pytest.mark.parametrize("name", ["kl", "logits"])
def test_targets_are_read_under_the_teachers_head(name) -> None:
    """The student under its own; centred logits of both in units of the teacher's class vectors."""
    x, y = cloud(4), cloud(4, seed=1)
    own, teacher = head(3, 5), heads.Head(2 * head(3, 6).weight, cloud(1, 3, 8)[0])
    if name == "kl":
        expected = losses.kl(own.logits(x), teacher.logits(y))
    else:
        length = teacher.weight.norm(dim=1).mean() / own.weight.norm(dim=1).mean()
        expected = (losses.centred(own, x) / length - losses.centred(teacher, y)).square().sum(dim=1).mean()
    assert float(value(name, x, y, losses.Predictors((own,), teachers=(teacher,)))) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["kl", "entropy", "logits"])
def test_each_row_is_scored_under_its_own_head(name) -> None:
    """Heads of different numbers of classes; the mean is over rows; a head that no row has counts nothing."""
    x, y = cloud(10), cloud(10, seed=1)
    own, place = (head(3, 5), head(7, 6), head(2, 7)), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 1])
    found = value(name, x, y, losses.Predictors(own, place))
    alone = [float(value(name, x[k : k + 1], y[k : k + 1], losses.Predictors((own[place[k]],)))) for k in range(10)]
    assert float(found) == pytest.approx(sum(alone) / 10, rel=1e-10)
    rows = torch.tensor([2, 0, 9])
    assert float(value(name, x[rows], y[rows], losses.Predictors(own, place)[rows])) == pytest.approx(
        (alone[2] + alone[0] + alone[9]) / 3, rel=1e-10
    )


def test_predictions_without_heads_are_refused() -> None:
    with pytest.raises(
        ValueError, match="expected the heads of the inputs .*; received none; choose an objective on features"
    ):
        value("kl", cloud(3), cloud(3), losses.Predictors(()))


def test_reach_is_refused_beside_another_objective() -> None:
    with pytest.raises(
        settings.SettingsError, match="expected objective sinkhorn_divergence beside reach; received mse; leave out"
    ):
        settings.merge("default", {"reach": 0.5, "objective": "mse"})
    unbalanced = losses.chosen("sinkhorn_divergence", epsilon=0.05, reach=0.01, seed=0)
    x, far = cloud(8), cloud(8) + 50
    assert float(unbalanced(x, far, None)) < float(value("sinkhorn_divergence", x, far))
