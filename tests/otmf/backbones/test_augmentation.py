"""Variation of images: what changes, and what must not."""

from __future__ import annotations

import torch

from otmf import settings
from otmf.backbones import augmentation


def vary(inputs: torch.Tensor, mirrored: torch.Tensor | None = None, **values) -> torch.Tensor:
    options = settings.Finetune(**{"shift": 0, **values})
    return augmentation.vary(inputs, options, generator=torch.Generator().manual_seed(1), mirrored=mirrored)


def test_variation_of_nothing_is_the_input_itself() -> None:
    inputs = torch.rand(3, 3, 8, 8)
    assert vary(inputs) is inputs


def test_shift_keeps_within_the_values_of_the_image() -> None:
    inputs = torch.rand(5, 3, 8, 8)
    moved = vary(inputs, shift=2)
    assert moved.shape == inputs.shape
    assert not torch.equal(moved, inputs)
    assert float(moved.min()) >= float(inputs.min())
    assert float(moved.max()) <= float(inputs.max())


def test_mirroring_turns_about_half_of_the_allowed_images_and_no_other() -> None:
    inputs = torch.rand(200, 1, 4, 4)
    allowed = torch.arange(200) < 100
    moved = vary(inputs, mirrored=allowed)
    turned = torch.tensor(
        [torch.allclose(one, other.flip(-1), atol=1e-5) for one, other in zip(moved, inputs, strict=True)]
    )
    assert not turned[100:].any()
    torch.testing.assert_close(moved[100:], inputs[100:], atol=1e-5, rtol=0)
    assert 30 < int(turned[:100].sum()) < 70


def test_jitter_changes_contrast_and_brightness_alone() -> None:
    inputs = torch.rand(4, 3, 8, 8)
    moved = vary(inputs, jitter=0.3)
    for one, other in zip(moved, inputs, strict=True):
        both = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))
        assert float(both[0, 1]) > 0.999
