"""Weights at another precision, and what rounding them changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from otmf import checkpoints, task_vectors

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Rounding:
    """What rounding a model changed, by Euclidean norms over all tensors.

    Attributes:
        dtype: name of the precision.
        relative: norm of the error by the norm of the model.
        of_change: norm of the error by the norm of the model's distance from its base.
        tensor, largest: the tensor whose own relative error is largest, and that error.
    """

    dtype: str
    relative: float
    of_change: float
    tensor: str
    largest: float


def rounded(
    state: Mapping[str, Tensor], dtype: str, *, base: Mapping[str, Tensor]
) -> tuple[task_vectors.State, Rounding]:
    """The state with its floating-point tensors in another precision, whole numbers as they are; and what that changed.

    Args:
        state: the model.
        dtype: a key of `DTYPES`.
        base: the model it came from.

    Raises:
        CheckpointError: if a value is beyond the range of that precision.
    """
    found = {key: value.to(DTYPES[dtype]) if value.is_floating_point() else value for key, value in state.items()}
    beyond = [key for key, value in found.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if beyond:
        raise checkpoints.CheckpointError(
            f"expected values within the range of {dtype}; received larger ones in {', '.join(beyond[:3])}; take bfloat16, or float32"
        )
    model = task_vectors.floats(state)
    error = task_vectors.combine([(1.0, task_vectors.floats(found)), (-1.0, model)])
    changed = task_vectors.norm(task_vectors.combine([(1.0, model), (-1.0, task_vectors.floats(base))]))
    each = {key: _ratio(float(error[key].norm()), float(model[key].norm())) for key in model}
    worst = max(each, key=each.__getitem__)
    lost = task_vectors.norm(error)
    return found, Rounding(dtype, _ratio(lost, task_vectors.norm(model)), _ratio(lost, changed), worst, each[worst])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
