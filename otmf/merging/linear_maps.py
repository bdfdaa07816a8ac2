"""Which tensors are weights of linear maps, and which way round they lie."""

from __future__ import annotations

import torch
from torch import Tensor


def is_linear(key: str, tensor: Tensor) -> bool:
    """Whether a tensor is the weight of a linear map: two dimensions, and not a table of embeddings."""
    return tensor.ndim == 2 and "embedding" not in key


def oriented(key: str, tensor: Tensor) -> Tensor:
    """The weight as (out, in), and back: open_clip keeps its last projection as (in, out)."""
    return tensor.T if key.rpartition(".")[2] == "proj" else tensor


def nonzero(values: Tensor, weight: Tensor) -> Tensor:
    """Which singular values (k,) of a weight, the greatest first, are more than rounding: the others' directions are any basis."""
    return values > values[0] * max(weight.shape) * torch.finfo(values.dtype).eps
