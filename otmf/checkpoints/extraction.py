"""The task vector of an expert, tensor by tensor from file to file: neither model is ever in memory whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from otmf import checkpoints, task_vectors
from otmf.checkpoints import low_rank
from otmf.checkpoints.deferred import Deferred, made


@dataclass(frozen=True)
class Extracted:
    """Euclidean norms of a task vector, and of the floating-point tensors of the base it was taken from."""

    norm: float
    base_norm: float


def extract(
    finetuned: Mapping[str, Tensor | Deferred], pretrained: Mapping[str, Tensor | Deferred], path: Path, *, name: str
) -> Extracted:
    """Writes tau = finetuned - pretrained, as `task_vectors.subtract` gives it, to a safetensors file.

    Each tensor is read once, and of what is deferred there are never more than two in memory beside the one that is written.

    Args:
        finetuned, pretrained: state dicts of one architecture.
        path: the file; not there if anything is refused.
        name: of the expert, for people.

    Raises:
        ValueError: if keys, shapes or dtypes differ.
        CheckpointError: if the expert holds NaN or infinity, or equals the base.
    """
    task_vectors.check_alike(finetuned, pretrained)
    squares: dict[str, tuple[float, float]] = {}

    def difference(key: str) -> Tensor:
        expert, base = made(finetuned[key]), made(pretrained[key])
        checkpoints.check_finite({key: expert}, name=name)
        vector, wide = task_vectors.subtract({key: expert}, {key: base}), task_vectors.floats({key: base})
        squares[key] = task_vectors.dot(vector, vector), task_vectors.dot(wide, wide)
        return vector[key]

    keys = [key for key, value in pretrained.items() if value.is_floating_point()]
    checkpoints.save({key: Deferred(_wide(pretrained[key]), lambda key=key: difference(key)) for key in keys}, path)
    norm, base_norm = (sum(squares[key][place] for key in keys) ** 0.5 for place in (0, 1))
    if norm == 0:
        path.unlink()
        raise checkpoints.identical(name)
    return Extracted(norm, base_norm)


def keep(
    products: Mapping[str, low_rank.Product], pretrained: Mapping[str, Tensor | Deferred], path: Path, *, name: str
) -> Extracted:
    """Writes a task vector that came as factors of low rank as those factors.

    Args:
        products: weight -> factors.
        pretrained: the base; of what is deferred there is never more than one tensor in memory.
        path: the file; not there if anything is refused.
        name: of the expert, for people.

    Raises:
        CheckpointError: if the factors hold NaN or infinity, or their products are zero.
    """
    for key, found in products.items():
        checkpoints.check_finite({f"{key}.up": found.up, f"{key}.down": found.down}, name=name)
    norm = sum(found.norm() ** 2 for found in products.values()) ** 0.5
    if norm == 0:
        raise checkpoints.identical(name)
    wide = (task_vectors.floats({key: made(value)}) for key, value in pretrained.items())
    base = sum(task_vectors.dot(found, found) for found in wide) ** 0.5
    low_rank.save(products, path)
    return Extracted(norm, base)


def _wide(value: Tensor | Deferred) -> Tensor:
    dtype = value.dtype if value.dtype == torch.float64 else torch.float32
    return torch.empty(value.shape, dtype=dtype, device="meta")
