"""What holds a merged vector, while masks are trained, near the one at which predictions on all tasks are foretold to change least.

Symbols: v the vector being trained, v* the anchor, Q(v - v*) the foretold change of predictions (`otmf.merging.curvature`), H its matrix.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from otmf.merging import linear_maps
from otmf.merging.curvature import Curvature, by_columns, by_rows

EVERY = 10  # steps from one drawing back to the next


class Retention:
    """Draws v back towards v*: c = v - v* becomes (1 + s H / h)^-1 c, the minimiser of |x - c|^2 + (s / h) Q(x), with h the mean
    eigenvalue of H over linear weights.

    As weight decay is parted from Adam's gradient, this is: what is drawn back neither enters the moments nor can overshoot, however steep H is.

    Args:
        curvature: of all tasks, the new one's too, each as heavy as it counts.
        anchor: v*, name -> tensor.
        strength: s of one step at the full learning rate: so much a direction of mean curvature is drawn back.

    Source: the proximal operator of a quadratic (Parikh and Boyd 2014, section 6.1.1), in the eigenbasis of each Kronecker product; parted
        from the gradient as in Loshchilov and Hutter (2019), arXiv:1711.05101.
    """

    def __init__(self, curvature: Curvature, anchor: Mapping[str, Tensor], strength: float) -> None:
        self.curvature, self.anchor, self.strength = curvature, anchor, strength
        self.inner = {key: [_eigen(part) for part in parts] for key, parts in curvature.inner.items()}
        self.outer = {key: [_eigen(part) for part in parts] for key, parts in curvature.outer.items()}
        total = count = 0.0
        for key in self.inner:
            (a, m), (b, n) = (_sums(found[key]) for found in (self.inner, self.outer))
            total, count = total + a * b, count + m * n
        self.mean = max(total / count if count else 1.0, torch.finfo(torch.float32).tiny)

    def drawn_back(self, key: str, value: Tensor, steps: float) -> Tensor:
        """One tensor of v after so many steps at the full rate, in its shape; as it is, if no prediction depends on it."""
        return self.anchor[key] + self._shrunk(key, value - self.anchor[key], self.strength * steps / self.mean)

    def _shrunk(self, key: str, change: Tensor, scale: float) -> Tensor:
        if key in self.inner:
            parts = by_rows(linear_maps.oriented(key, change), self.curvature.outer[key])
            done = []
            for part, (high, left) in zip(parts, self.outer[key], strict=True):
                tiles = by_columns(part, self.curvature.inner[key])
                done.append(
                    [
                        left @ ((left.T @ tile @ right) / (1 + scale * high[:, None] * wide)) @ right.T
                        for tile, (wide, right) in zip(tiles, self.inner[key], strict=True)
                    ]
                )
            return linear_maps.oriented(key, torch.cat([torch.cat(tiles, dim=1) for tiles in done]))
        if key in self.curvature.diagonal:
            return change / (1 + scale * self.curvature.diagonal[key])
        return change


def _eigen(factor: Tensor) -> tuple[Tensor, Tensor]:
    precise = factor if factor.dtype == torch.float64 else factor.float()  # no more digits than it has
    values, basis = torch.linalg.eigh(precise)
    return values.clamp_min(0).to(factor.dtype), basis.to(factor.dtype)


def _sums(parts: list[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    return sum(float(values.sum()) for values, _ in parts), sum(len(values) for values, _ in parts)
