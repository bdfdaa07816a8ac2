"""Mini-batches without end."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def drawn(count: int, size: int, *, seed: int) -> Iterator[Tensor]:
    """Positions of mini-batches without end: each pass a new permutation, the last part of a pass that does not fill
    a batch left out (all positions at once where there are fewer than a batch)."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order.split(size)[: max(count // size, 1)]
