"""Masks on a task vector: one learnable factor per element, row, column or tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["element", "row", "column", "tensor"]
Masks = dict[str, Tensor]


def new(vector: Mapping[str, Tensor], *, granularity: Granularity = "element") -> Masks:
    """Masks of ones, shaped so that they broadcast against each tensor of a vector.

    Args:
        vector: name -> tensor of any shape.
        granularity: `element` one factor per entry; `row` one per index of the first dimension; `column` one per index
            of the last; `tensor` a single one. Tensors of fewer than two dimensions have one per entry with all but
            `tensor`.
    """
    return {
        key: torch.ones(_shape(value.shape, granularity), dtype=value.dtype, device=value.device)
        for key, value in vector.items()
    }


def pull_back(gradient: Tensor, vector: Tensor, shape: torch.Size) -> Tensor:
    """The gradient with respect to a mask of `shape`, from the gradient with respect to M (.) v.

    Overwrites `gradient`, which must not be used afterwards.
    """
    product = gradient.mul_(vector)
    return product if product.shape == shape else product.sum_to_size(shape)


def summarise(masks: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """For each tensor: mean, deviation, least and greatest factor, and the share of factors below zero."""
    return {
        key: {
            "mean": float(mask.mean()),
            "deviation": float(mask.std(correction=0)),
            "least": float(mask.min()),
            "greatest": float(mask.max()),
            "below_zero": float((mask < 0).float().mean()),
        }
        for key, mask in masks.items()
    }


def _shape(shape: torch.Size, granularity: Granularity) -> tuple[int, ...]:
    if granularity == "tensor":
        return (1,) * len(shape)
    if granularity == "element" or len(shape) < 2:
        return tuple(shape)
    kept = 0 if granularity == "row" else len(shape) - 1
    return tuple(size if place == kept else 1 for place, size in enumerate(shape))
