"""Images varied at random for training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from otmf import settings


def vary(
    inputs: Tensor, options: settings.Training, *, generator: torch.Generator, mirrored: Tensor | None = None
) -> Tensor:
    """Images (n, c, h, w), each varied at random: moved, zoomed, turned, mirrored where allowed, its contrast changed.

    Args:
        inputs: shape (n, c, h, w); edges are repeated where the varied image reaches beyond them.
        options: `shift` in pixels, `zoom` and `jitter` as fractions, `turn` in radians, each the greatest change.
        generator: of all random numbers, on the CPU.
        mirrored: shape (n,), whether an image may be mirrored left to right; None for none.
    """
    if not (options.shift or options.zoom or options.turn or options.jitter or mirrored is not None):
        return inputs
    count, _, height, width = inputs.shape
    draws = 2 * torch.rand(7, count, generator=generator) - 1
    zoom, angle = 1 + options.zoom * draws[0], options.turn * draws[1]
    sign = torch.ones(count) if mirrored is None else torch.where(mirrored.cpu() & (draws[2] > 0), -1.0, 1.0)
    across, down = 2 * options.shift * draws[3] / width, 2 * options.shift * draws[4] / height
    first = torch.stack([sign * zoom * angle.cos(), -zoom * angle.sin(), across], dim=1)
    second = torch.stack([sign * zoom * angle.sin(), zoom * angle.cos(), down], dim=1)
    grid = functional.affine_grid(torch.stack([first, second], dim=1), list(inputs.shape), align_corners=False)
    moved = functional.grid_sample(inputs, grid.to(inputs.device), padding_mode="border", align_corners=False)
    if not options.jitter:
        return moved
    contrast, brightness = (options.jitter * draws[row].to(inputs.device)[:, None, None, None] for row in (5, 6))
    return moved * (1 + contrast) + brightness
