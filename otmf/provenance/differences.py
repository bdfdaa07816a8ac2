"""How far two outputs of a stage are apart: not at all, by rounding, or in kind. No torch, no model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file


def between(one: Path, other: Path) -> float:
    """The largest difference of two files or folders, relative to the largest value of the tensor or to the number itself.

    Zero for the same bytes; infinity where files, names, shapes or texts differ, or a kind of file is unknown.
    """
    if one.is_dir() and other.is_dir():
        names = [
            sorted(part.relative_to(side).as_posix() for part in side.rglob("*") if part.is_file())
            for side in (one, other)
        ]
        if names[0] != names[1]:
            return math.inf
        return max((between(one / name, other / name) for name in names[0]), default=0.0)
    if not (one.is_file() and other.is_file()):
        return math.inf
    if one.read_bytes() == other.read_bytes():
        return 0.0
    try:
        if one.suffix == ".safetensors":
            return _tensors(load_file(one), load_file(other))
        if one.suffix == ".json":
            return max(_values(json.loads(one.read_text("utf-8")), json.loads(other.read_text("utf-8"))), default=0.0)
    except (ValueError, SafetensorError):
        return math.inf
    return math.inf


def _tensors(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    if one.keys() != other.keys() or any(
        one[key].shape != other[key].shape or one[key].dtype != other[key].dtype for key in one
    ):
        return math.inf
    return max((_apart(one[key], other[key]) for key in one), default=0.0)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    if not one.size:
        return 0.0
    first, second = one.astype(np.float64), other.astype(np.float64)
    largest = np.abs(first - second).max()
    scale = max(np.abs(first).max(), np.abs(second).max())
    if not np.isfinite(largest):
        return 0.0 if np.array_equal(first, second, equal_nan=True) else math.inf
    return float(largest / scale) if scale else float(largest)


def _values(one: Any, other: Any) -> Iterator[float]:
    numbers = (int, float)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _values(one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for first, second in zip(one, other, strict=True):
            yield from _values(first, second)
    elif (
        isinstance(one, numbers)
        and isinstance(other, numbers)
        and not isinstance(one, bool)
        and not isinstance(other, bool)
    ):
        scale = max(abs(one), abs(other))
        yield abs(one - other) / scale if scale and math.isfinite(scale) else (0.0 if one == other else math.inf)
    else:
        yield 0.0 if one == other else math.inf
