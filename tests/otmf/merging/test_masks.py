"""Masks: gradients against autograd, and summaries."""

from __future__ import annotations

import pytest
import torch

from otmf import checkpoints
from otmf.merging import masks


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [("element", (2, 3)), ("row", (2, 1)), ("column", (1, 3)), ("tensor", (1, 1)), ("low_rank", (2, 3))],
)
def test_pulled_back_gradient_is_that_of_autograd(granularity, shape) -> None:
    vector = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    mask = masks.new({"a": vector}, granularity=granularity, rank=2)["a"]
    assert tuple(mask.value().shape) == shape
    assert bool((mask.value() == 1).all())
    own = mask.learned()
    with torch.no_grad():
        for tensor in own:
            tensor.add_(0.1)
    leaves = [tensor.clone().requires_grad_() for tensor in own]
    outer = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    value = leaves[0] if len(leaves) == 1 else 1 + leaves[0] @ leaves[1]
    (0.7 * (value * vector) * outer).sum().backward()
    mask.pull_back(outer.clone(), vector, 0.7)
    for tensor, leaf in zip(own, leaves, strict=True):
        torch.testing.assert_close(tensor.grad, leaf.grad)


def test_sparse_masks_are_those_of_the_greatest_saliency_of_all_tensors_together() -> None:
    saliency = {"a": torch.tensor([[1.0, 9.0], [2.0, 3.0]]), "b": torch.zeros(2, 2, 2), "c": torch.tensor([8.0, 4.0])}
    found = masks.of_greatest(saliency, share=3 / 14)
    assert {key: mask.positions.tolist() for key, mask in found.items()} == {"a": [1], "b": [], "c": [0, 1]}
    assert all(
        bool((mask.value() == 1).all()) and mask.value().shape == saliency[key].shape for key, mask in found.items()
    )
    found["a"].factors.fill_(5)
    assert found["a"].value().tolist() == [[1, 5], [1, 1]]
    vector, outer = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 10.0], [1.0, 1.0]])
    found["a"].pull_back(outer, vector, 0.5)
    assert found["a"].factors.grad.tolist() == [10.0]
    found["b"].pull_back(torch.ones(2, 2, 2), torch.ones(2, 2, 2), 1)
    assert found["b"].factors.grad.shape == (0,)


def test_sparse_masks_are_at_least_one_and_at_most_all() -> None:
    saliency = {"a": torch.rand(3, 4), "b": torch.rand(5)}
    assert [len(list(masks.of_greatest(saliency, share=share)[key].positions)) for share in (1.0,) for key in "ab"] == [
        12,
        5,
    ]
    assert sum(len(mask.positions) for mask in masks.of_greatest(saliency, share=0.0).values()) == 1


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (6, 3, 1, 1)])
def test_low_rank_masks_begin_with_the_signs_of_the_steepest_direction(shape) -> None:
    out, others = shape[0], torch.Size(shape[1:]).numel()
    signs = torch.where(torch.arange(out) % 3 == 0, -1.0, 1.0)
    noise = 0.1 * torch.randn(out, others, generator=torch.Generator().manual_seed(0))
    slopes = torch.outer(3 * signs, torch.linspace(-2, 1, others)) + noise
    mask = masks.of_slopes({"a": slopes.view(shape)})["a"]
    assert abs(float((mask.left[:, 0] * signs).sum())) == out
    assert bool((mask.value() == 1).all())
    assert tuple(mask.value().shape) == shape


def test_low_rank_masks_of_more_columns_than_there_are_directions_keep_drawn_ones() -> None:
    slopes = {"a": torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), "bias": torch.ones(4)}
    found, drawn = masks.of_slopes(slopes, rank=3, seed=7), masks.new(slopes, granularity="low_rank", rank=3, seed=7)
    assert torch.equal(found["a"].left[:, :2].abs(), torch.full((2, 2), 3**-0.5))
    assert torch.equal(found["a"].left[:, 2], drawn["a"].left[:, 2])
    assert torch.equal(found["bias"].value(), torch.ones(4))


def test_low_rank_masks_without_slopes_are_finite() -> None:
    mask = masks.of_slopes({"a": torch.zeros(4, 3)}, rank=2)["a"]
    assert torch.equal(mask.left.abs(), torch.full((4, 2), 2**-0.5))


def test_low_rank_masks_of_a_share_are_of_the_tensors_that_lower_the_loss_most_per_number() -> None:
    steep, flat = torch.outer(torch.ones(6), torch.ones(4)), torch.outer(torch.ones(6), torch.full((4,), 0.1))
    slopes = {"flat": flat, "steep": steep, "bias": torch.full((5,), 1.5), "small": torch.full((3,), 0.2)}
    # of 56 elements; a first step lowers the loss by 24 for 10 numbers, 2.4 for 10, 7.5 for 5, 0.6 for 3
    shapes = {
        share: [tuple(value.shape) for value in masks.parameters(masks.of_slopes(slopes, share=share))]
        for share in (0.0, 13 / 56, 16 / 56, 17 / 56, 1.0)
    }
    single, left_right = [(1, 1), (1, 1), (1,), (1,)], [(6, 1), (1, 4)]
    assert shapes[0.0] == single
    assert shapes[13 / 56] == [(1, 1), *left_right, (1,), (1,)]
    assert shapes[16 / 56] == [(1, 1), *left_right, (1,), (3,)], "the bias does not fit beside it"
    assert shapes[17 / 56] == [(1, 1), *left_right, (5,), (1,)]
    assert shapes[1.0] == [*left_right, *left_right, (5,), (3,)]
    assert masks.count(masks.of_slopes(slopes, share=17 / 56)) <= 17


def test_count_is_that_of_what_is_learned() -> None:
    vector = {"a": torch.ones(6, 4), "b": torch.ones(5)}
    assert masks.count(masks.new(vector)) == 29
    assert masks.count(masks.new(vector, granularity="low_rank", rank=2)) == 2 * (6 + 4) + 5
    assert masks.count(masks.of_greatest(vector, share=2 / 29)) == 2


def test_what_is_stored_is_read_again(tmp_path) -> None:
    saliency = {"a": torch.rand(3, 4), "b": torch.zeros(5)}
    stored = {
        f"{key}{part}": value
        for key, mask in masks.of_greatest(saliency, share=0.2).items()
        for part, value in mask.tensors().items()
    }
    checkpoints.save(stored, tmp_path / "masks.safetensors")
    found = checkpoints.load(tmp_path / "masks.safetensors")
    assert set(found) == {"a.positions", "a.factors", "b.positions", "b.factors"}
    assert all(torch.equal(found[key], stored[key]) for key in found)


def test_low_rank_takes_further_dimensions_as_one_and_leaves_vectors_whole() -> None:
    vector = {"kernel": torch.ones(4, 3, 2, 2), "bias": torch.ones(5)}
    found = masks.new(vector, granularity="low_rank", rank=2, seed=3)
    assert [tuple(value.shape) for value in masks.parameters(found)] == [(4, 2), (2, 12), (5,)]
    assert found["kernel"].value().shape == (4, 3, 2, 2)
    again, other = (masks.new(vector, granularity="low_rank", rank=2, seed=seed)["kernel"] for seed in (3, 4))
    assert torch.equal(again.left, found["kernel"].left)
    assert not torch.equal(other.left, found["kernel"].left)


@pytest.mark.parametrize("granularity", ["element", "row", "column", "tensor", "low_rank"])
def test_gradient_that_lies_otherwise_in_memory_is_pulled_back_alike(granularity) -> None:
    """As that of a convolution, whose channels torch puts last."""
    vector, gradient = (torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = []
    for laid in (gradient.clone(), gradient.clone(memory_format=torch.channels_last)):
        mask = masks.new({"w": vector}, granularity=granularity)["w"]
        mask.pull_back(laid, vector, 2.0)
        found.append([value.grad for value in mask.learned()])
    assert all(torch.allclose(one, other) for one, other in zip(*found, strict=True))


def test_summary_of_a_mask() -> None:
    found = masks.summarise({"a": masks.Shared(torch.tensor([-1.0, 1.0, 3.0, 1.0]))})["a"]
    assert found == {
        "mean": 1.0,
        "deviation": pytest.approx(2**0.5),
        "least": -1.0,
        "greatest": 3.0,
        "below_zero": 0.25,
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_low_rank_masks_have_the_precision_of_their_slopes(dtype) -> None:
    slopes = torch.outer(torch.tensor([1.0, -2, 3]), torch.ones(4)).to(dtype)
    mask = masks.of_slopes({"a": slopes}, rank=1)["a"]
    assert mask.value().dtype == mask.left.dtype == dtype
    assert abs(float((mask.left[:, 0] * torch.tensor([1.0, -1, 1])).sum())) == 3
