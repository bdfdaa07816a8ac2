"""Fusion: the formula, with masks at one and as learned."""

from __future__ import annotations

import pytest
import torch

from otmf import settings
from otmf.merging import fusion, masks

SHAPES = {"first.weight": (5, 6), "first.bias": (5,), "second.weight": (4, 5)}


def vector(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in SHAPES.items()}


PRE, POST = vector(1), vector(2)


@pytest.mark.parametrize(
    ("preset", "values", "factors"), [("paper", {}, (0.8, 0.2)), ("transport", {"scale": 0.5}, (1.0, 0.5))]
)
def test_masks_at_one_give_the_combination(preset, values, factors) -> None:
    start = fusion.Start(fusion.weights(settings.merge(preset, values)))
    fused = fusion.fuse(PRE, POST, masks.new(PRE), masks.new(POST), start)
    for key in POST:
        torch.testing.assert_close(fused[key], factors[0] * PRE[key] + factors[1] * POST[key])


def test_each_mask_multiplies_its_own_vector_and_none_the_remainder() -> None:
    remainder = {"first.bias": torch.full((5,), 3.0, dtype=torch.float64)}
    pre, post = masks.new(PRE, granularity="tensor"), masks.new(POST, granularity="tensor")
    with torch.no_grad():
        for factor, mask in ((0.5, pre), (-2.0, post)):
            for key in SHAPES:
                for parameter in masks.parameters({key: mask[key]}):
                    parameter.fill_(factor)
    fused = fusion.fuse(PRE, POST, pre, post, fusion.Start((0.8, 0.2), remainder))
    for key in POST:
        torch.testing.assert_close(fused[key].detach(), remainder.get(key, 0) + 0.4 * PRE[key] - 0.4 * POST[key])


def test_a_start_is_the_fused_vector_of_masks_at_one() -> None:
    start = fusion.Start((0.8, 0.2), {"second.weight": torch.ones(4, 5, dtype=torch.float64)})
    fused = fusion.fuse(PRE, POST, masks.new(PRE), masks.new(POST), start)
    found = start.vector(PRE, POST)
    assert found.keys() == fused.keys()
    for key in POST:
        torch.testing.assert_close(found[key], fused[key])
