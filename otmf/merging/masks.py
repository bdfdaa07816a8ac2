"""Masks on a task vector: learnable factors, one per element, row, column or tensor, few for a tensor, or one for few elements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["element", "row", "column", "tensor", "low_rank"]


@dataclass(frozen=True)
class Shared:
    """A mask whose factors broadcast against the tensor.

    Attributes:
        factors: shape as in `new`.
    """

    factors: Tensor

    def value(self) -> Tensor:
        """The factors, to be multiplied with the tensor; not a copy."""
        return self.factors

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by the end of its name."""
        return {"": self.factors}

    def learned(self) -> list[Tensor]:
        """What an optimiser changes."""
        return [self.factors]

    def pull_back(self, gradient: Tensor, vector: Tensor, factor: float) -> None:
        """Sets the gradients of what is learned, from that with respect to factor * M (.) v, which it overwrites."""
        product = gradient.mul_(vector)
        product = product if product.shape == self.factors.shape else product.sum_to_size(self.factors.shape)
        self.factors.grad = product.mul_(factor)


@dataclass(frozen=True)
class LowRank:
    """The mask 1 + L R of a tensor of shape (out, ...), its further dimensions taken as one.

    Attributes:
        left: L, shape (out, rank).
        right: R, shape (rank, in).
        shape: of the tensor.
    """

    left: Tensor
    right: Tensor
    shape: torch.Size

    def value(self) -> Tensor:
        """The factors, computed."""
        return (self.left @ self.right).add_(1).view(self.shape)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by the end of its name."""
        return {".left": self.left, ".right": self.right}

    def learned(self) -> list[Tensor]:
        """What an optimiser changes."""
        return [self.left, self.right]

    def pull_back(self, gradient: Tensor, vector: Tensor, factor: float) -> None:
        """As `Shared.pull_back`."""
        product = gradient.mul_(vector).mul_(factor).reshape(len(self.left), -1)
        self.left.grad, self.right.grad = product @ self.right.T, self.left.T @ product


@dataclass(frozen=True)
class Sparse:
    """A mask with factors of their own for a few elements, one for all others.

    Attributes:
        positions: shape (k,), of the elements in the flattened tensor, in order.
        factors: shape (k,).
        shape: of the tensor.
    """

    positions: Tensor
    factors: Tensor
    shape: torch.Size

    def value(self) -> Tensor:
        """The factors of all elements, computed."""
        return self.factors.new_ones(self.shape.numel()).index_copy_(0, self.positions, self.factors).view(self.shape)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by the end of its name."""
        return {".positions": self.positions, ".factors": self.factors}

    def learned(self) -> list[Tensor]:
        """What an optimiser changes."""
        return [self.factors]

    def pull_back(self, gradient: Tensor, vector: Tensor, factor: float) -> None:
        """As `Shared.pull_back`."""
        own = gradient.reshape(-1)[self.positions]
        self.factors.grad = own.mul_(vector.reshape(-1)[self.positions]).mul_(factor)


Mask = Shared | LowRank | Sparse
Masks = dict[str, Mask]


def new(vector: Mapping[str, Tensor], *, granularity: Granularity = "element", rank: int = 1, seed: int = 0) -> Masks:
    """Masks of ones for the tensors of a vector.

    Args:
        vector: name -> tensor of any shape.
        granularity: `element` one factor per entry; `row` one per index of the first dimension; `column` one per index
            of the last; `tensor` a single one; `low_rank` the matrix 1 + L R of that rank, R zero and L drawn. Tensors of fewer than
            two dimensions have one per entry with all but `tensor`.
        rank: of `low_rank`.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    return {key: _mask(value, granularity, rank, generator) for key, value in vector.items()}


def of_greatest(saliency: Mapping[str, Tensor], *, share: float) -> Masks:
    """Sparse masks of ones for those elements of all tensors together whose saliency is greatest, at least one.

    Args:
        saliency: name -> tensor of the vector's shapes.
        share: of the number of elements, above 0 and at most 1.
    """
    sizes = torch.tensor([value.numel() for value in saliency.values()])
    ends = sizes.cumsum(0)
    count = max(1, round(share * int(ends[-1])))
    found = torch.cat([value.reshape(-1) for value in saliency.values()]).topk(count).indices.sort().values
    bounds = torch.searchsorted(found, torch.cat([ends - sizes, ends[-1:]]).to(found.device)).tolist()
    masks: Masks = {}
    for place, (key, value) in enumerate(saliency.items()):
        own = found[bounds[place] : bounds[place + 1]] - int(ends[place] - sizes[place])
        masks[key] = Sparse(own, value.new_ones(len(own)), value.shape)
    return masks


def of_slopes(slopes: Mapping[str, Tensor], *, rank: int = 1, seed: int = 0, share: float | None = None) -> Masks:
    """Low-rank masks of ones, as those of `new`, whose columns of L have the signs of the leading left singular vectors of the slopes.

    Learning R along such columns follows the slopes farther than along drawn ones; with signs alone all rows move alike.
    With a `share`, only so many tensors have the masks of `new` that all numbers together are at most that share of the elements: those for which a first
    step of Adam, which moves each number as far, lowers the loss most per number. Every other tensor has a single factor.

    Args:
        slopes: name -> slopes of the loss along the factors of all elements, shapes of the vector.
        rank, seed: as in `new`; columns beyond the lesser side of a matrix stay drawn.
        share: at least 0; a single factor for each tensor is the least there is.

    Source: arXiv:2407.05000 (LoRA-GA), which begins adapters with singular vectors of the first gradient.
    """
    masks = new(slopes, granularity="low_rank", rank=rank, seed=seed)
    for key, mask in masks.items():
        if isinstance(mask, LowRank):
            found = _leading(slopes[key].reshape(len(mask.left), -1), mask.left)
            mask.left[:, : found.shape[1]] = torch.where(found < 0, -1.0, 1.0) / math.sqrt(rank)
    return masks if share is None else _within(masks, slopes, share)


def parameters(masks: Mapping[str, Mask]) -> Iterator[Tensor]:
    """All that is learned."""
    for mask in masks.values():
        yield from mask.learned()


def count(masks: Mapping[str, Mask]) -> int:
    """How many numbers are learned."""
    return sum(value.numel() for value in parameters(masks))


def summarise(masks: Mapping[str, Mask]) -> dict[str, dict[str, float]]:
    """For each tensor: mean, deviation, least and greatest factor, and the share of factors below zero."""
    return {key: _summary(mask.value()) for key, mask in masks.items()}


def _summary(factors: Tensor) -> dict[str, float]:
    return {
        "mean": float(factors.mean()),
        "deviation": float(factors.std(correction=0)),
        "least": float(factors.min()),
        "greatest": float(factors.max()),
        "below_zero": float((factors < 0).float().mean()),
    }


def _within(masks: Masks, slopes: Mapping[str, Tensor], share: float) -> Masks:
    """The masks whose numbers are worth most, as far as the share goes, and single factors."""
    left = math.floor(share * sum(value.numel() for value in slopes.values())) - len(slopes)
    found = new(slopes, granularity="tensor")
    for key in sorted(masks, key=lambda key: -_lowered(masks[key], slopes[key]) / count({key: masks[key]})):
        if (more := count({key: masks[key]}) - 1) <= left:
            found[key], left = masks[key], left - more
    return found


def _lowered(mask: Mask, slopes: Tensor) -> float:
    """How much a small equal step of every number that is not multiplied by zero lowers a loss of these slopes."""
    if isinstance(mask, LowRank):
        slopes = mask.left.T @ slopes.reshape(len(mask.left), -1)
    return float(slopes.abs().sum())


def _leading(matrix: Tensor, drawn: Tensor, *, iterations: int = 8) -> Tensor:
    """Leading left singular vectors of a matrix (out, in), by subspace iteration from drawn columns (out, rank); no more than its lesser side has."""
    wide = torch.promote_types(matrix.dtype, torch.float32)  # what torch has a factorisation for
    matrix, found = matrix.to(wide), drawn[:, : min(matrix.shape)].to(wide)
    for _ in range(iterations):
        found = torch.linalg.qr(matrix @ (matrix.T @ found)).Q
    return found


def _mask(value: Tensor, granularity: Granularity, rank: int, generator: torch.Generator) -> Mask:
    if granularity == "low_rank" and value.ndim >= 2:
        left = torch.randn(len(value), rank, generator=generator, dtype=torch.float64) / math.sqrt(rank)
        return LowRank(left.to(value), value.new_zeros(rank, math.prod(value.shape[1:])), value.shape)
    return Shared(torch.ones(_shape(value.shape, granularity), dtype=value.dtype, device=value.device))


def _shape(shape: torch.Size, granularity: Granularity) -> tuple[int, ...]:
    if granularity == "tensor":
        return (1,) * len(shape)
    if granularity == "element" or len(shape) < 2:
        return tuple(shape)
    kept = 0 if granularity == "row" else len(shape) - 1
    return tuple(size if place == kept else 1 for place, size in enumerate(shape))
