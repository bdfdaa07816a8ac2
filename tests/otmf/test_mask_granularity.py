"""Training masks that are not one number for each element."""

from __future__ import annotations

import pytest
import torch

from otmf import settings
from otmf.merging import mask_training, masks
from otmf.objectives import transport
from tests.otmf import two_layers
from tests.otmf.two_layers import features, merge, side, vector


@pytest.fixture
def model() -> dict[str, torch.Tensor]:
    return two_layers.state()


def test_low_rank_masks_learn_two_thin_matrices(model) -> None:
    found = merge(model, settings.merge("transport", {"steps": 150, "granularity": "low_rank", "rank": 2}))
    mask = found.masks["post"]["first.weight"]
    assert {name: tuple(value.shape) for name, value in mask.tensors().items()} == {".left": (5, 2), ".right": (2, 6)}
    assert torch.linalg.matrix_rank(mask.value() - 1) == 2
    assert sum(found.cost_after.values()) < 0.5 * sum(found.cost_before.values())


def test_low_rank_masks_of_a_share_take_no_more_numbers_and_are_learned(model) -> None:
    """Of the 55 elements of each vector; masks of rank one for all tensors have 25 numbers."""
    values = {"steps": 50, "granularity": "low_rank", "rank_share": 0.4}
    found = merge(model, settings.merge("transport", values))
    for learned in found.masks.values():
        assert len(learned) < masks.count(learned) <= 0.4 * sum(value.numel() for value in found.vector.values())
        assert all(not torch.equal(value, torch.ones_like(value)) for value in masks.parameters(learned))
    assert sum(found.cost_after.values()) < sum(found.cost_before.values())


def test_sparse_masks_change_a_share_of_the_elements_where_the_loss_is_steepest(model) -> None:
    pre, post = vector(model, 1), vector(model, 2)
    given = {"pre": side(model, pre, 3), "post": side(model, post, 4)}
    options = settings.merge("transport", {"steps": 150, "granularity": "sparse", "share": 0.2, "batch_size": 40})
    found = mask_training.merge_step(model, pre, post, features=features, options=options, **given)
    count = sum(value.numel() for value in pre.values())
    slopes = {}
    for name, own in (("pre", pre), ("post", post)):
        factors = {key: torch.ones_like(value, requires_grad=True) for key, value in own.items()}
        other = post if name == "pre" else pre
        state = {**model, **{key: model[key] + factors[key] * own[key] + other[key] for key in own}}
        loss = sum(
            transport.sinkhorn_divergence(features(state, s.inputs), s.targets, epsilon=options.epsilon)
            for s in given.values()
        )
        loss.backward()
        slopes[name] = torch.cat([factors[key].grad.abs().view(-1) for key in own])
        chosen = torch.cat([(found.masks[name][key].value() != 1).view(-1) for key in own])
        assert int(chosen.sum()) == round(0.2 * count)
        assert slopes[name][chosen].min() >= slopes[name][~chosen].max()
    assert sum(found.cost_after.values()) < 0.7 * sum(found.cost_before.values())


def test_low_rank_masks_begin_with_the_signs_of_the_whole_slopes(model) -> None:
    """A batch takes all inputs here, so that the slopes are those of the whole loss; the learning rate leaves the signs as they are."""
    pre, post = vector(model, 1), vector(model, 2)
    given = {"pre": side(model, pre, 3), "post": side(model, post, 4)}
    values = {"steps": 1, "granularity": "low_rank", "batch_size": 40, "learning_rate": 1e-6}
    options = settings.merge("transport", values)
    found = mask_training.merge_step(model, pre, post, features=features, options=options, **given)
    factors = {key: torch.ones_like(value, requires_grad=True) for key, value in pre.items()}
    state = {**model, **{key: model[key] + factors[key] * pre[key] + post[key] for key in pre}}
    sum(
        transport.sinkhorn_divergence(features(state, s.inputs), s.targets, epsilon=options.epsilon)
        for s in given.values()
    ).backward()
    for key in ("first.weight", "second.weight"):
        leading = torch.linalg.svd(factors[key].grad).U[:, 0]
        assert abs(int((leading.sign() * found.masks["pre"][key].left[:, 0].sign()).sum())) == len(leading)


@pytest.mark.parametrize("sides", [{"pre": None}, {"pre": None, "post": None}])
@pytest.mark.parametrize("values", [{}, {"alternate": True}, {"steps": 0}])
@pytest.mark.parametrize("granularity", ["sparse", "low_rank"])
def test_placed_masks_with_a_side_missing_are_finite(model, sides, values, granularity) -> None:
    found = merge(model, settings.merge("transport", {"steps": 4, "granularity": granularity, **values}), **sides)
    assert all(bool(value.isfinite().all()) for value in found.vector.values())


@pytest.mark.parametrize("granularity", ["row", "column", "tensor"])
def test_coarse_masks_are_shared_and_trained(model, granularity) -> None:
    found = merge(model, settings.merge("transport", {"steps": 5, "granularity": granularity}))
    shape = {"row": (5, 1), "column": (1, 6), "tensor": (1, 1)}[granularity]
    assert tuple(found.masks["post"]["first.weight"].value().shape) == shape
    assert not torch.equal(found.masks["post"]["first.weight"].value(), torch.ones(shape))


def test_share_of_low_rank_masks_is_refused_beside_others() -> None:
    with pytest.raises(
        settings.SettingsError, match="expected granularity low_rank beside rank_share; received element; leave out"
    ):
        settings.merge("default", {"granularity": "element", "rank_share": 0.005})
